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
            let before = self.primitives.record().await?;
            if registration.needs_base(before.as_ref()) {
                let armed =
                    self.context.armed(primary).filter(|_| registration.promises_anew(before.as_ref()));
                registration.base = match armed {
                    Some(armed) => Some(armed),
                    None => self.base(primary, *acks > 0 && degraded.is_none()).await?,
                };
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

    /// What `primary` has now. Where it is `needed`, nothing is recorded without it: a failover would not ask for what is only there.
    async fn base(&self, primary: &InstanceId, needed: bool) -> Result<Option<GtidSet>, StepError> {
        let within = self.primitives.cluster().policy.statement;
        let deadline = Instant::now() + within;
        let look = async { self.primitives.session(primary, deadline).await?.report(deadline).await };
        let error = match look.await {
            Ok(report) => return Ok(Some(report.executed)),
            Err(error) => error,
        };
        // Only its agent reaches one that is closed.
        let told = self.primitives.look(primary, within).await.ok().and_then(|seen| seen.report);
        match told.map(|report| report.executed).ok_or(error) {
            Ok(executed) => Ok(Some(executed)),
            Err(error) if needed => Err(error),
            Err(error) => {
                tracing::warn!(%primary, %error, "what it had when it began to lead is not known");
                Ok(None)
            }
        }
    }
}
