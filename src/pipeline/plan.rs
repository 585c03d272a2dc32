//! What each command is asked for, once it is checked. Printed first, journalled, hashed for
//! `--resume`.

use crate::request::{self, Plan};

/// `translora transfer`
pub type TransferPlan = Plan<request::Transfer>;
/// `translora train`
pub type TrainPlan = Plan<request::Train>;
/// `translora kit`
pub type KitPlan = Plan<request::Kit>;
/// `translora eval`
pub type EvalPlan = Plan<request::Eval>;
