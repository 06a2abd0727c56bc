//! `ashctl session exec`.

use ash_dbus::SessionProxy;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::ctrl_c;

use super::Context;
use crate::failure::Failure;
use crate::json::parsed;
use crate::out::{self, Out};
use crate::stream::receiver;
use crate::text::Neutral;

/// As `timeout(1)` has it.
const TIMED_OUT: u8 = 124;
const PIECE: usize = 64 << 10;

/// Runs a command, passes its output on as it comes, returns its exit code. Ctrl-C kills
/// it: nobody waits for its end any more.
pub(super) async fn run(
    mut context: Context,
    session: &SessionProxy<'_>,
    command: &str,
    timeout: u64,
) -> Result<u8, Failure> {
    let (stdout, stderr, status) = session.exec(command, timeout).await?;
    let (stdout, stderr, mut status) = (receiver(stdout)?, receiver(stderr)?, receiver(status)?);
    let (mut kept_out, mut kept_err) = (Vec::new(), Vec::new());
    let mut line = String::new();
    let done = async {
        let passed = if context.as_json {
            tokio::try_join!(keep(stdout, &mut kept_out), keep(stderr, &mut kept_err))
        } else {
            tokio::try_join!(pass(stdout, Out::stdout()), pass(stderr, Out::stderr()))
        };
        passed?;
        status.read_to_string(&mut line).await.map_err(broken)
    };
    tokio::select! {
        done = done => done?,
        _ = ctrl_c() => return Err(Failure::Interrupted),
    };
    let ended = ended(&line)?;
    if context.as_json {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut document = ended.clone();
        document["stdout"] = json!(text(&kept_out));
        document["stderr"] = json!(text(&kept_err));
        context.document(&document)?;
    }
    Ok(code(&ended))
}

fn broken(error: std::io::Error) -> Failure {
    Failure::Failed(format!("the daemon's pipe broke: {error}"))
}

async fn keep(mut pipe: Receiver, kept: &mut Vec<u8>) -> Result<(), Failure> {
    pipe.read_to_end(kept).await.map(|_| ()).map_err(broken)
}

/// Passes bytes on as they are, or neutral for a terminal.
async fn pass(mut pipe: Receiver, mut out: Out) -> Result<(), Failure> {
    let mut neutral = Neutral::default();
    let mut piece = Vec::with_capacity(PIECE);
    while pipe.read_buf(&mut piece).await.map_err(broken)? > 0 {
        match out.is_terminal() {
            true => out.bytes(neutral.push(&piece).as_bytes())?,
            false => out.bytes(&piece)?,
        }
        piece.clear();
    }
    Ok(())
}

/// How the command ended, from the line of the status pipe.
fn ended(line: &str) -> Result<Value, Failure> {
    let lost = || Failure::Failed("ashd went away before the command ended".into());
    if !line.ends_with('\n') {
        return Err(lost());
    }
    let status = parsed(line);
    match (status["exitCode"].is_i64(), status["message"].as_str()) {
        (true, _) => Ok(status),
        (false, Some(message)) => Err(Failure::Failed(message.to_owned())),
        (false, None) => Err(lost()),
    }
}

fn code(ended: &Value) -> u8 {
    if ended["truncated"] == true {
        out::note("ashctl: output beyond 10 MiB is missing");
    }
    if ended["timedOut"] == true {
        out::note("ashctl: the command ran out of time");
        return TIMED_OUT;
    }
    u8::try_from(ended["exitCode"].as_i64().unwrap_or(1)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_command_is_read() {
        let code_of = |line: &str| ended(line).map(|status| code(&status));
        let exit = |code, timed_out| {
            format!("{{\"exitCode\":{code},\"timedOut\":{timed_out},\"truncated\":false}}\n")
        };
        assert_eq!(code_of(&exit(7, false)).unwrap(), 7);
        assert_eq!(code_of(&exit(137, true)).unwrap(), TIMED_OUT);
        assert_eq!(code_of(&exit(-1, false)).unwrap(), 1);
        let refused = "{\"error\":\"e\",\"message\":\"no sandbox\"}\n";
        assert_eq!(code_of(refused).unwrap_err().to_string(), "no sandbox");
        for lost in ["", "{\"exitCode\":0", "{}\n", "x\n"] {
            assert!(code_of(lost).is_err(), "{lost:?}");
        }
    }
}
