//! Who may call: every method, every property, `GetManagedObjects`. Introspection and `Peer` stay
//! open, as zbus serves them by itself.

use std::collections::HashMap;
use std::fmt::Write;

use async_trait::async_trait;
use zbus::message::Header;
use zbus::names::{InterfaceName, MemberName};
use zbus::object_server::{DispatchResult2, Interface, SignalEmitter};
use zbus::zvariant::{OwnedValue, Value};
use zbus::{Connection, Message, ObjectServer, fdo};

/// Says whether the sender of a call may make it.
///
/// The bus vouches for the sender's uid, so a call without a sender is refused. A process id
/// would prove nothing: it can be somebody else's by the time it is looked up.
///
/// # Errors
/// `AccessDenied`, for everybody but root.
pub(super) async fn authorise(connection: &Connection, call: &Header<'_>) -> fdo::Result<()> {
    match uid(connection, call).await {
        Some(0) => Ok(()),
        _ => Err(fdo::Error::AccessDenied("only root may control ashd".into())),
    }
}

async fn uid(connection: &Connection, call: &Header<'_>) -> Option<u32> {
    let bus = "org.freedesktop.DBus";
    let path = "/org/freedesktop/DBus";
    let sender = call.sender()?;
    let reply =
        connection.call_method(Some(bus), path, Some(bus), "GetConnectionUnixUser", sender).await;
    reply.ok()?.body().deserialize().ok()
}

/// An interface behind [`authorise`]. Everything is registered inside one of these.
pub(super) struct Gated<T>(pub(super) T);

/// The work of a method, after the sender has been let in.
fn guarded<'call>(
    work: DispatchResult2<'call>,
    connection: &'call Connection,
    message: &'call Message,
) -> DispatchResult2<'call> {
    let DispatchResult2::Async(work) = work else { return work };
    DispatchResult2::Async(Box::pin(async move {
        authorise(connection, &message.header()).await?;
        work.await
    }))
}

/// Lets in the daemon itself (no header: it is gathering values for a signal) and the authorised.
async fn admit(connection: &Connection, call: Option<&Header<'_>>) -> fdo::Result<()> {
    match call {
        Some(call) => authorise(connection, call).await,
        None => Ok(()),
    }
}

#[async_trait]
impl<T: Interface> Interface for Gated<T> {
    fn name() -> InterfaceName<'static> {
        T::name()
    }

    async fn get(
        &self,
        property: &str,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> Option<fdo::Result<OwnedValue>> {
        match admit(connection, header).await {
            Ok(()) => self.0.get(property, server, connection, header, emitter).await,
            Err(denied) => Some(Err(denied)),
        }
    }

    async fn get_all(
        &self,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> fdo::Result<HashMap<String, OwnedValue>> {
        admit(connection, header).await?;
        self.0.get_all(server, connection, header, emitter).await
    }

    async fn set_mut(
        &mut self,
        property: &str,
        value: &Value<'_>,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> Option<fdo::Result<()>> {
        match admit(connection, header).await {
            Ok(()) => self.0.set_mut(property, value, server, connection, header, emitter).await,
            Err(denied) => Some(Err(denied)),
        }
    }

    fn call<'call>(
        &'call self,
        server: &'call ObjectServer,
        connection: &'call Connection,
        message: &'call Message,
        name: MemberName<'call>,
    ) -> DispatchResult2<'call> {
        guarded(self.0.call(server, connection, message, name), connection, message)
    }

    fn call_mut<'call>(
        &'call mut self,
        server: &'call ObjectServer,
        connection: &'call Connection,
        message: &'call Message,
        name: MemberName<'call>,
    ) -> DispatchResult2<'call> {
        guarded(self.0.call_mut(server, connection, message, name), connection, message)
    }

    fn introspect_to_writer(&self, writer: &mut dyn Write, level: usize) {
        self.0.introspect_to_writer(writer, level);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use zbus::fdo::ObjectManager;

    use super::*;
    use crate::bus::testbus::TestBus;

    struct Door {
        opened: u32,
    }

    #[zbus::interface(name = "org.example.Door")]
    impl Door {
        async fn open(&self) -> u32 {
            self.opened
        }

        async fn slam(&mut self) {
            self.opened += 1;
        }

        #[zbus(property)]
        async fn colour(&self) -> u32 {
            7
        }

        #[zbus(property)]
        async fn set_colour(&mut self, colour: u32) {
            self.opened = colour;
        }
    }

    const NOBODY: u32 = 65_534;
    const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
    const DOOR: &str = "string:org.example.Door";

    /// What an own process with this uid is told.
    async fn told(bus: &TestBus, uid: u32, path: &str, call: &[&str]) -> String {
        let mut send = Command::new("dbus-send");
        send.args([&format!("--bus={}", bus.address()), "--print-reply", "--dest=org.example"]);
        send.arg(path).args(call).uid(uid);
        let output = tokio::task::spawn_blocking(move || send.output()).await.unwrap().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }

    #[tokio::test]
    async fn only_root_gets_through_any_door() {
        let bus = TestBus::start();
        let served = bus.connect().await;
        served.object_server().at("/o", Gated(ObjectManager)).await.unwrap();
        served.object_server().at("/o/door", Gated(Door { opened: 3 })).await.unwrap();
        served.request_name("org.example").await.unwrap();
        let (get, get_all) = (format!("{PROPERTIES}.Get"), format!("{PROPERTIES}.GetAll"));
        let set = format!("{PROPERTIES}.Set");
        let manager = "org.freedesktop.DBus.ObjectManager.GetManagedObjects";
        for (path, call, want) in [
            ("/o/door", vec!["org.example.Door.Open"], "uint32 3"),
            ("/o/door", vec!["org.example.Door.Slam"], "method return"),
            ("/o/door", vec![&get, DOOR, "string:Colour"], "uint32 7"),
            ("/o/door", vec![&get_all, DOOR], "uint32 7"),
            ("/o/door", vec![&set, DOOR, "string:Colour", "variant:uint32:3"], "method return"),
            ("/o", vec![manager], "/o/door"),
        ] {
            let said = told(&bus, NOBODY, path, &call).await;
            let denied = "Error org.freedesktop.DBus.Error.AccessDenied: only root may";
            assert!(said.starts_with(denied), "{call:?} {said}");
            let said = told(&bus, 0, path, &call).await;
            assert!(said.contains(want) && !said.contains("Error"), "{call:?} {said}");
        }
        let introspect = ["org.freedesktop.DBus.Introspectable.Introspect"];
        assert!(told(&bus, NOBODY, "/o/door", &introspect).await.contains("org.example.Door"));
    }
}
