//! Steps that change the record of the cluster.

use std::ops::Deref;

use tokio::time::Instant;

use super::{Composed, Primitives, ServerSession as _};
use crate::decide::plan::{Evidence, Step};
use crate::execute::record::{RecordStore as _, change_record};
use crate::execute::world::{StepError, Token};
use crate::model::gtid::GtidSet;
use crate::model::instance::InstanceId;
use crate::model::record::{RecordChange, Registration};

impl<W> Composed<W>
where
    W: Deref,
    W::Target: Primitives,
{
    /// Makes the change a step asks for; one that changes no record is refused.
    pub(super) async fn change_record(&self, step: &Step, token: &Token) -> Result<Evidence, StepError> {
        let change = if let Step::Register { primary, generation, ackers, acks, degraded } = step {
            let mut registration = Registration {
                primary: primary.clone(),
                generation: *generation,
                ballot: token.ballot.clone(),
                ackers: ackers.clone(),
                acks: *acks,
                degraded: degraded.clone(),
                automatic: token.automatic,
                base: None,
            };
            if registration.starts_new_guarantee(self.primitives.record().await?.as_ref()) {
                registration.base = self.base(primary).await;
            }
            RecordChange::Register(Box::new(registration))
        } else if let Step::Park { instance, why } = step {
            RecordChange::Park { instance: instance.clone(), why: why.clone() }
        } else if let Step::Wish { instance, wish } = step {
            RecordChange::Override { instance: instance.clone(), wish: wish.clone() }
        } else {
            return Err(StepError::Failed(format!("{step} changes no record")));
        };
        let record = change_record(&*self.primitives, &change, self.primitives.wall()).await?;
        Ok(Evidence { record: Some(record), ..Evidence::default() })
    }

    /// What `primary` had when it was armed in this recovery; what it has now where that is not known.
    async fn base(&self, primary: &InstanceId) -> Option<GtidSet> {
        if let Some(armed) = self.context.armed(primary) {
            return Some(armed);
        }
        let deadline = Instant::now() + self.primitives.cluster().policy.statement;
        let look = async { self.primitives.session(primary, deadline).await?.report(deadline).await };
        match look.await {
            Ok(report) => Some(report.executed),
            Err(error) => {
                tracing::warn!(%primary, %error, "what it had when it began to lead is not known");
                None
            }
        }
    }
}
