//! The words of the daemon: what an agent, a session, a turn and an event are,
//! and what clients may give. No I/O.

pub mod agent;
pub mod attachment;
pub mod event;
pub mod id;
pub mod node;
pub mod point;
pub mod scope;
pub mod session;
pub mod settings;
pub mod time;
pub mod turn;

pub mod check;
pub mod config;
pub mod environment;
pub mod exec;
pub mod json;
pub mod message;

pub use agent::Agent;
pub use attachment::{Attachment, FileName, MediaType};
pub use check::Unfit;
pub use config::{AgentConfig, ConfigChange};
pub use event::{Event, EventId, EventKind, NewEvent};
pub use exec::ExecRequest;
pub use id::{AgentId, AgentName, AttachmentId, PointId, SandboxId, SessionId, Tenant, TurnId};
pub use message::Message;
pub use node::Node;
pub use point::{Point, PointName, Root, Which};
pub use scope::Scope;
pub use session::{Changed, Session, SessionChange, SessionCounts, Status};
pub use settings::{PermissionMode, PromptMode, Settings};
pub use time::{Day, Timestamp};
pub use turn::{TurnOptions, TurnRequest, WhenBusy};
