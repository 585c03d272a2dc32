//! A range of a model's layers, as people write it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Layers from the first up to, but not including, the end; without an end to the last. Written
/// `12..24`, `12..` or `..8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Layers {
    /// The first layer, from 0.
    pub first: u32,
    /// The layer after the last; none goes to the end.
    pub end: Option<u32>,
}

impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range of layers such as 12..24");
        let (first, end) = text.split_once("..").ok_or_else(wrong)?;
        let number = |text: &str| {
            if text.is_empty() {
                Ok(None)
            } else {
                text.parse().map(Some).map_err(|_| wrong())
            }
        };
        let (first, end) = (number(first)?.unwrap_or(0), number(end)?);
        if end.is_some_and(|end| end <= first) {
            Err(format!("{text:?} holds no layer"))
        } else {
            Ok(Self { first, end })
        }
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", self.first)?;
        self.end.map_or(Ok(()), |end| write!(f, "{end}"))
    }
}

impl From<Layers> for String {
    fn from(layers: Layers) -> Self {
        layers.to_string()
    }
}

impl TryFrom<String> for Layers {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_a_range() {
        let layers = |first, end| Ok(Layers { first, end });
        assert_eq!(
            ["12..24", "12..", "..8"].map(str::parse),
            [layers(12, Some(24)), layers(12, None), layers(0, Some(8))]
        );
        for bad in ["", "12", "a..b", "5..5", "7..3", "-1..3"] {
            assert!(bad.parse::<Layers>().is_err(), "{bad}");
        }
        assert_eq!(
            layers(3, Some(9)).map(|layers| layers.to_string()),
            Ok("3..9".to_owned())
        );
    }
}
