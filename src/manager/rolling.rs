//! That somebody's command goes round the servers. Their own program does that, where they are; here it is only remembered, for as long
//! as that program says so, and a second one is refused meanwhile.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::model::time::Moment;

/// So long after its program's last word it is over: that was killed, or cannot reach this manager.
pub const LASTS: Duration = Duration::from_secs(20);

/// The one of a cluster.
#[derive(Debug, Default)]
pub struct Rolling(Mutex<Option<Mark>>);

#[derive(Debug)]
struct Mark {
    id: String,
    by: String,
    since: DateTime<Utc>,
    heard: Moment,
}

impl Rolling {
    /// It goes round, or still does, by that `id`.
    ///
    /// # Errors
    /// Another one does: by whom, and since when.
    pub fn goes(&self, id: &str, by: &str, (now, wall): (Moment, DateTime<Utc>)) -> Result<(), String> {
        let mut mark = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let other = mark.as_ref().filter(|mark| mark.id != id && now.since(mark.heard) < LASTS);
        if let Some(other) = other {
            let since = other.since.format("%H:%M:%S UTC");
            return Err(format!("a rolling change by {} runs since {since}", other.by));
        }
        let since = mark.take().filter(|mark| mark.id == id).map_or(wall, |mark| mark.since);
        *mark = Some(Mark { id: id.to_owned(), by: by.to_owned(), since, heard: now });
        Ok(())
    }

    /// That one has ended.
    pub fn ended(&self, id: &str) {
        let mut mark = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = mark.take_if(|mark| mark.id == id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_round_at_a_time() {
        let (rolling, wall) = (Rolling::default(), DateTime::UNIX_EPOCH);
        let at = |seconds| (Moment::ZERO + Duration::from_secs(seconds), wall);
        rolling.goes("a", "ann", at(1)).unwrap();
        let refused = rolling.goes("b", "bob", at(20)).unwrap_err();
        assert_eq!(refused, "a rolling change by ann runs since 00:00:00 UTC");
        rolling.goes("a", "ann", at(20)).unwrap();
        rolling.ended("b");
        rolling.goes("b", "bob", at(39)).unwrap_err();
        rolling.goes("b", "bob", at(40)).unwrap();
        rolling.goes("a", "ann", at(41)).unwrap_err();
        rolling.ended("b");
        rolling.goes("a", "ann", at(42)).unwrap();
    }
}
