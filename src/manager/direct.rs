//! Orders to the operator's traffic program: one JSON object on its standard input, its exit status the answer.

use std::sync::PoisonError;

use serde::Serialize;
use tokio::time::Instant;

use super::live_world::LiveWorld;
use crate::decide::plan::{Evidence, TrafficOrder};
use crate::execute::world::{StepError, Token};
use crate::model::ballot::Generation;
use crate::model::instance::InstanceId;
use crate::notify::exec;

/// What it did, for which recovery.
pub(super) type Direction = (String, TrafficOrder, InstanceId);

/// What the program reads. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Order<'a> {
    version: u32,
    action: TrafficOrder,
    cluster: &'a str,
    /// Whom it is about.
    host: &'a str,
    port: u16,
    /// Grows with each change of primary: an order with an older one than the last is late, and not to be obeyed.
    generation: Generation,
    recovery: &'a str,
}

impl LiveWorld {
    /// Told once for each recovery where that went well.
    pub(super) async fn direct(
        &self,
        instance: &InstanceId,
        order: TrafficOrder,
        generation: Generation,
        token: &Token,
    ) -> Result<Evidence, StepError> {
        let directed = Evidence { directed: true, ..Evidence::default() };
        let this = (token.recovery.clone(), order, instance.clone());
        if self.directed.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&this) {
            return Ok(directed);
        }
        // Taken out of the configuration since the plan was made.
        let Some(traffic) = &self.cluster.traffic else { return Ok(directed) };
        let text = serde_json::to_vec(&Order {
            version: 1,
            action: order,
            cluster: &self.cluster.name.0,
            host: &instance.host,
            port: instance.port,
            generation,
            recovery: &token.recovery,
        })
        .map_err(|error| StepError::Failed(error.to_string()))?;
        let ended = exec::run(&traffic.program, &text, Instant::now() + traffic.within).await;
        ended.map_err(|why| StepError::Failed(format!("{}: {why}", traffic.program.display())))?;
        *self.directed.lock().unwrap_or_else(PoisonError::into_inner) = Some(this);
        Ok(directed)
    }
}
