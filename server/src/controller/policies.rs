//! Changes of the set of policies, as operators ask for them.
//!
//! A set is one value with a version. It is never changed in place: an edit makes the next version, and the earlier
//! ones are kept with it, so that any of them can be put in force again. Whether a set is good is not decided here
//! ([`review`](super::review)).

use synod_placement::constraints;

use super::records::{Policies, Policy};

/// Characters of a name.
const NAME_CHARS_MAX: usize = 64;
/// Policies of one set.
const POLICIES_MAX: usize = 100;
/// Bytes of the statements of one set.
const SET_BYTES_MAX: usize = 128 << 10;
/// Earlier sets that are kept, and their bytes.
const HISTORY_MAX: usize = 32;
const HISTORY_BYTES_MAX: usize = 512 << 10;

/// What an operator wants of the policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// This policy, in the place of the one of that name, or as the last one.
    Apply {
        /// Its name.
        name: String,
        /// Its statements.
        sql: String,
    },
    /// All but this policy.
    Drop(String),
    /// The set that was in force as this version.
    Rollback(u64),
}

impl Policies {
    /// The set after an edit: the next version. An error says why there is none; nothing is changed.
    pub fn edited(&self, edit: &Edit) -> Result<Policies, String> {
        let version = self.version + 1;
        let (policies, change) = match edit {
            Edit::Apply { name, sql } => (
                self.with(name, sql, version)?,
                match self.policies.iter().any(|policy| policy.name == *name) {
                    true => format!("{name} replaced"),
                    false => format!("{name} added"),
                },
            ),
            Edit::Drop(name) => {
                let mut policies = self.policies.clone();
                policies.retain(|policy| policy.name != *name);
                if policies.len() == self.policies.len() {
                    return Err(format!("no policy is called {name}"));
                }
                (policies, format!("{name} dropped"))
            }
            Edit::Rollback(to) if *to == self.version => {
                return Err(format!("version {to} is in force"));
            }
            Edit::Rollback(to) => {
                let earlier = self.history.iter().find(|set| set.version == *to);
                let earlier = earlier.ok_or_else(|| {
                    let kept: Vec<String> = self
                        .history
                        .iter()
                        .map(|set| set.version.to_string())
                        .collect();
                    format!("version {to} is not kept; there are: {}", kept.join(", "))
                })?;
                (
                    earlier.policies.clone(),
                    format!("back to the policies of version {to}"),
                )
            }
        };
        let bytes: usize = policies.iter().map(|policy| policy.sql.len()).sum();
        if policies.len() > POLICIES_MAX || bytes > SET_BYTES_MAX {
            return Err(format!(
                "at most {POLICIES_MAX} policies of {SET_BYTES_MAX} bytes together"
            ));
        }
        Ok(Policies {
            version,
            policies,
            change,
            forced: Vec::new(),
            history: self.kept(),
        })
    }

    fn with(&self, name: &str, sql: &str, version: u64) -> Result<Vec<Policy>, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(fits) {
            return Err(format!(
                "a policy's name has 1 to {NAME_CHARS_MAX} letters, digits, - and _"
            ));
        }
        let declared = constraints(sql).map_err(|error| located(name, &error))?;
        if declared.is_empty() {
            return Err(format!(
                "{name} declares no constraint: nothing would follow from it"
            ));
        }
        let policy = Policy {
            name: name.to_owned(),
            since: version,
            sql: sql.to_owned(),
        };
        let mut policies = self.policies.clone();
        match policies.iter_mut().find(|policy| policy.name == name) {
            Some(known) if known.sql == sql => {
                return Err(format!(
                    "{name} is in force as it stands here: nothing was changed"
                ));
            }
            Some(known) => *known = policy,
            None => policies.push(policy),
        }
        Ok(policies)
    }

    /// This set and the earlier ones, as far as there is room.
    fn kept(&self) -> Vec<Policies> {
        let present = Policies {
            history: Vec::new(),
            ..self.clone()
        };
        let mut bytes = 0;
        let sets = std::iter::once(&present).chain(&self.history);
        sets.take(HISTORY_MAX)
            .take_while(|set| {
                bytes += set
                    .policies
                    .iter()
                    .map(|policy| policy.sql.len())
                    .sum::<usize>();
                bytes <= HISTORY_BYTES_MAX
            })
            .cloned()
            .collect()
    }

    /// The statements, policy by policy.
    pub fn scripts(&self) -> Vec<&str> {
        let policies = self.policies.iter();
        policies.map(|policy| policy.sql.as_str()).collect()
    }
}

/// An error of a policy's statements as `name:line:column: what`.
pub fn located(name: &str, error: &synod_placement::Error) -> String {
    match error.place {
        Some(place) => format!(
            "{name}:{}:{}: {}: {}",
            place.line, place.column, error.kind, error.message
        ),
        None => format!("{name}: {}: {}", error.kind, error.message),
    }
}

#[cfg(test)]
mod tests {
    use super::super::defaults;
    use super::*;

    const SQL: &str = "CREATE CONSTRAINT few AS SELECT * FROM replicas CHECK slot < 5;";

    fn apply(sql: &str) -> Edit {
        Edit::Apply {
            name: "few".to_owned(),
            sql: sql.to_owned(),
        }
    }

    #[test]
    fn sets_follow_each_other_and_come_back() {
        let first = defaults::policies();
        let second = first.edited(&apply(SQL)).expect("it is sound");
        assert_eq!(second.version, 2);
        assert_eq!(second.policies.last().map(|it| it.since), Some(2));
        let third = second
            .edited(&Edit::Drop("few".to_owned()))
            .expect("it is there");
        assert_eq!(third.policies, first.policies);
        let fourth = third.edited(&Edit::Rollback(2)).expect("it is kept");
        assert_eq!((fourth.version, &fourth.policies), (4, &second.policies));
        let kept: Vec<u64> = fourth.history.iter().map(|set| set.version).collect();
        assert_eq!(kept, [3, 2, 1]);
        assert!(fourth.history.iter().all(|set| set.history.is_empty()));
    }

    #[test]
    fn an_edit_that_cannot_be_made_says_why() {
        let set = defaults::policies()
            .edited(&apply(SQL))
            .expect("it is sound");
        for (edit, word) in [
            (apply(SQL), "nothing was changed"),
            (apply("CREATE VIEW v AS SELECT 1"), "no constraint"),
            (apply("SELECT"), "few:1:"),
            (Edit::Drop("many".to_owned()), "no policy is called many"),
            (Edit::Rollback(2), "in force"),
            (Edit::Rollback(9), "not kept; there are: 1"),
            (
                Edit::Apply {
                    name: "a b".to_owned(),
                    sql: SQL.to_owned(),
                },
                "letters",
            ),
        ] {
            let error = set.edited(&edit).expect_err(word);
            assert!(error.contains(word), "{edit:?}: {error}");
        }
    }

    #[test]
    fn history_is_bounded() {
        let mut set = defaults::policies();
        for n in 0..100 {
            let sql = format!("{SQL} -- {n}{}", "x".repeat(40_000));
            set = set.edited(&apply(&sql)).expect("it is sound");
        }
        let bytes: usize = set
            .history
            .iter()
            .flat_map(|it| it.scripts())
            .map(str::len)
            .sum();
        assert!(set.history.len() <= HISTORY_MAX && bytes <= HISTORY_BYTES_MAX);
        assert!(!set.history.is_empty());
    }
}
