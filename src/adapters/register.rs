//! The register of generations: what each name answers with, and what it answered with before.
//!
//! A generation is one load of one file. Its number is never used again; a rollback brings it back,
//! and with it the KV that was computed under it. Number 0 is the bare base. Pure: whoever holds a
//! register loads and frees, and lets the threads that decode know.

use std::collections::BTreeMap;

/// The bare base.
pub const BARE: u64 = 0;

/// One generation, and what its holder keeps for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<T> {
    /// Its number.
    pub generation: u64,
    /// What was loaded.
    pub what: T,
}

/// What a name answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<T> {
    /// What requests that begin now run under.
    pub live: Held<T>,
    /// What a rollback brings back.
    pub previous: Option<Held<T>>,
}

/// Why a name cannot be rolled back or unloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing was loaded under this name.
    Name,
    /// It has had one generation only.
    Previous,
}

/// Places by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register<T> {
    names: BTreeMap<String, Place<T>>,
    last: u64,
}

impl<T> Default for Register<T> {
    fn default() -> Self {
        Self {
            names: BTreeMap::new(),
            last: BARE,
        }
    }
}

impl<T> Register<T> {
    /// Say which number the next commit gets.
    pub fn next(&self) -> u64 {
        self.last + 1
    }

    /// Make what was loaded live under a name, and answer what nobody can come back to any more.
    /// The first commit of a name leaves `before` for a rollback, if there is one.
    pub fn commit(&mut self, name: &str, what: T, before: Option<T>) -> Option<Held<T>> {
        self.last += 1;
        let live = Held {
            generation: self.last,
            what,
        };
        if let Some(place) = self.names.get_mut(name) {
            let was_live = std::mem::replace(&mut place.live, live);
            return place.previous.replace(was_live);
        }
        let previous = before.map(|what| Held {
            generation: BARE,
            what,
        });
        self.names.insert(name.to_owned(), Place { live, previous });
        None
    }

    /// Bring back a name with the numbers that it had in an earlier process. None of them is used
    /// again.
    pub fn restore(&mut self, name: &str, place: Place<T>) {
        let previous = place.previous.as_ref().map_or(BARE, |held| held.generation);
        self.skip(previous.max(place.live.generation));
        self.names.insert(name.to_owned(), place);
    }

    /// Give no number up to `last` to a commit.
    pub fn skip(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    /// Look at what a rollback of this name would bring back.
    pub fn previous(&self, name: &str) -> Result<&Held<T>, Missing> {
        let place = self.names.get(name).ok_or(Missing::Name)?;
        place.previous.as_ref().ok_or(Missing::Previous)
    }

    /// Exchange the live generation of a name with the one before it; once more leads back.
    ///
    /// Answers the number that is live now.
    pub fn rollback(&mut self, name: &str) -> Result<u64, Missing> {
        let place = self.names.get_mut(name).ok_or(Missing::Name)?;
        let previous = place.previous.as_mut().ok_or(Missing::Previous)?;
        std::mem::swap(&mut place.live, previous);
        Ok(place.live.generation)
    }

    /// Forget a name, and answer both of its generations, the live one first.
    pub fn unload(&mut self, name: &str) -> Result<Place<T>, Missing> {
        self.names.remove(name).ok_or(Missing::Name)
    }

    /// Find the place of a name.
    pub fn get(&self, name: &str) -> Option<&Place<T>> {
        self.names.get(name)
    }

    /// Walk over the places, by name.
    pub fn places(&self) -> impl Iterator<Item = (&String, &Place<T>)> {
        self.names.iter()
    }

    /// Count the names.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Say whether nothing is loaded.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done to a register of one name, and what is live, previous and dropped afterwards.
    #[test]
    fn a_table_of_exchanges() {
        enum Do {
            Load(&'static str),
            Back,
        }
        use Do::{Back, Load};
        type Numbers = (u64, Option<u64>);
        let cases: [(&[Do], Numbers, Option<u64>); 7] = [
            (&[Load("a")], (1, None), None),
            (&[Load("a"), Load("b")], (2, Some(1)), None),
            (&[Load("a"), Load("b"), Load("c")], (3, Some(2)), Some(1)),
            (&[Load("a"), Load("b"), Back], (1, Some(2)), None),
            (&[Load("a"), Load("b"), Back, Back], (2, Some(1)), None),
            // What was rolled away from is dropped by the next load, and its number is not reused.
            (
                &[Load("a"), Load("b"), Back, Load("c")],
                (3, Some(1)),
                Some(2),
            ),
            (&[Load("a"), Load("a")], (2, Some(1)), None),
        ];
        for (number, (steps, now, dropped)) in cases.into_iter().enumerate() {
            let (mut register, mut last) = (Register::default(), None);
            for step in steps {
                match step {
                    Load(file) => last = register.commit("task", *file, None),
                    Back => _ = register.rollback("task").expect("there is one before"),
                }
            }
            let place = register.get("task").expect("it was loaded");
            let previous = place.previous.as_ref().map(|held| held.generation);
            assert_eq!((place.live.generation, previous), now, "case {number}");
            assert_eq!(last.map(|held| held.generation), dropped, "case {number}");
        }
    }

    #[test]
    fn what_an_earlier_process_had_comes_back_and_no_number_is_used_again() {
        let held = |generation, what| Held { generation, what };
        let mut register = Register::default();
        let place = Place {
            live: held(3, "a"),
            previous: Some(held(7, "b")),
        };
        register.restore("task", place);
        assert_eq!(register.next(), 8);
        assert_eq!(register.rollback("task"), Ok(7));
        register.skip(20);
        register.skip(10);
        register.commit("task", "c", None);
        let numbers = register.get("task").map(|place| place.live.generation);
        assert_eq!(numbers, Some(21));
    }

    #[test]
    fn the_first_load_may_leave_the_bare_base_behind() {
        let mut register = Register::default();
        assert_eq!(register.commit("task", "a", Some("base")), None);
        assert_eq!(register.rollback("task"), Ok(BARE));
        assert_eq!(register.rollback("task"), Ok(1));
        register.commit("task", "b", Some("base"));
        assert_eq!(register.previous("task").map(|held| held.what), Ok("a"));
    }

    #[test]
    fn names_do_not_meet_and_what_is_not_there_is_told_apart() {
        let mut register = Register::default();
        register.commit("one", "a", None);
        register.commit("two", "b", None);
        assert_eq!((register.len(), register.next()), (2, 3));
        assert_eq!(register.rollback("one"), Err(Missing::Previous));
        assert_eq!(register.rollback("none"), Err(Missing::Name));
        assert_eq!(register.unload("one").map(|place| place.live.what), Ok("a"));
        assert_eq!(register.unload("one"), Err(Missing::Name));
        let names: Vec<_> = register.places().map(|(name, _)| name.as_str()).collect();
        assert!(names == ["two"] && !register.is_empty());
        register.commit("one", "c", None);
        assert_eq!(
            register.get("one").map(|place| place.live.generation),
            Some(3)
        );
    }
}
