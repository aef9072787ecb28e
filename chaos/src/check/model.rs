//! What one key of a correct store would answer, one operation after another.

use crate::history::{Operation, Outcome, Step};

/// The state of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct State {
    value: Option<String>,
    /// It has a deadline: it may go at any moment, and once it was seen gone it is.
    fleeting: bool,
}

impl State {
    /// The state after `operation`, if the operation could have been answered as it was.
    pub(super) fn after(&self, operation: &Operation) -> Option<State> {
        let mut state = self.clone();
        for step in &operation.steps {
            state.take(step)?;
        }
        debug_assert!(operation.outcome != Outcome::Failed);
        Some(state)
    }

    fn take(&mut self, step: &Step) -> Option<()> {
        match step {
            Step::Read { value: None, .. } => {}
            Step::Read {
                value: Some(found), ..
            } => self.shows(found)?,
            Step::Write { value, ttl_ms, .. } => {
                self.value = Some(value.clone());
                self.fleeting = ttl_ms.is_some();
            }
            Step::Insert { value, found, .. } => {
                match found {
                    Some(found) => self.shows(found)?,
                    // Not answered: it may be left out, so here it did insert. What was fleeting
                    // had gone.
                    None if self.fleeting => *self = State::default(),
                    None => {}
                }
                if self.value.is_none() {
                    self.value = Some(value.clone());
                }
            }
            Step::Delete { .. } => *self = State::default(),
            Step::Append { value, .. } => {
                let list = self.value.get_or_insert_default();
                list.push_str(value);
                list.push(',');
            }
            Step::Add { delta, sum, .. } => {
                let before: i64 = self.value.as_deref().unwrap_or("0").parse().ok()?;
                let after = before.checked_add(*delta)?;
                if sum.is_some_and(|sum| sum != after) {
                    return None;
                }
                self.value = Some(after.to_string());
            }
            // A range is no operation of one key.
            Step::Range { .. } => return None,
        }
        Some(())
    }

    /// Whether this is what is found here; what expires goes when it is found gone.
    fn shows(&mut self, found: &Option<String>) -> Option<()> {
        if found.is_none() && self.fleeting {
            *self = State::default();
        }
        (*found == self.value).then_some(())
    }
}
