//! The words of the daemon: what an agent, a session, a turn and an event are. No I/O.

pub mod agent;
pub mod event;
pub mod id;
pub mod session;
pub mod time;
pub mod turn;

pub use agent::Agent;
pub use event::{Event, EventId, EventKind, NewEvent};
pub use id::{AgentId, AgentName, SandboxId, SessionId, Tenant, TurnId};
pub use session::{PermissionMode, Session, SessionChange, Settings, Status};
pub use time::Timestamp;
pub use turn::{TurnOptions, TurnRequest, WhenBusy};
