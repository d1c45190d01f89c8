//! Orders to the operator's traffic program: one JSON object on its standard input, its exit status the answer.

use serde::Serialize;
use tokio::time::Instant;

use crate::decide::plan::TrafficOrder;
use crate::execute::world::StepError;
use crate::model::ballot::Generation;
use crate::model::cluster::Cluster;
use crate::model::instance::InstanceId;
use crate::notify::exec;

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

/// Runs the program of `cluster` for one order.
pub(super) async fn direct(
    cluster: &Cluster,
    instance: &InstanceId,
    order: TrafficOrder,
    generation: Generation,
    recovery: &str,
) -> Result<(), StepError> {
    // Taken out of the configuration since the plan was made.
    let Some(traffic) = &cluster.traffic else { return Ok(()) };
    let text = serde_json::to_vec(&Order {
        version: 1,
        action: order,
        cluster: &cluster.name.0,
        host: &instance.host,
        port: instance.port,
        generation,
        recovery,
    })
    .map_err(|error| StepError::Failed(error.to_string()))?;
    let ended = exec::run(&traffic.program, &text, Instant::now() + traffic.within).await;
    ended.map_err(|why| StepError::Failed(format!("{}: {why}", traffic.program.display())))
}
