//! What sessions cost, in the words of the bus.

use ash_dbus::Error;
use ash_dbus::value::LoadInfo;

use super::objects::Desk;
use super::words;
use crate::session::Load;

/// A row for each of the caller's sessions.
pub(super) async fn rows(desk: &Desk) -> Result<Vec<LoadInfo>, Error> {
    let loads = desk.service.top(&desk.caller).await.map_err(words::refused)?;
    Ok(loads.iter().map(row).collect())
}

fn row(load: &Load) -> LoadInfo {
    let Load { view, stats, sandbox, usage } = load;
    let session = words::session(&view.session);
    LoadInfo {
        id: session.id,
        agent_name: session.agent_name,
        status: session.status,
        turn: session.turn,
        sandbox: (*sandbox).to_owned(),
        cpu_us: stats.cpu_us,
        memory: stats.memory,
        memory_peak: stats.memory_peak,
        pids: stats.pids,
        read_bytes: stats.read,
        written_bytes: stats.written,
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cost_usd: usage.cost_usd,
    }
}
