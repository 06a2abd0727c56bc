use std::io::Write;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::time::Instant;

use ash_wire::frame::{self, HEADER, Header, MAX_BODY};
use ash_wire::words::{CliState, Notice, Turn};
use proptest::prelude::*;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;

/// A directory with a listening socket in it.
struct Place {
    _dir: TempDir,
    path: PathBuf,
    listener: UnixListener,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    Place { _dir: dir, path, listener }
}

fn welcome(sandbox: SandboxId, version: u16) -> Vec<u8> {
    let sandbox = sandbox.to_string();
    let cli = CliState::Absent;
    framed(
        Kind::Welcome,
        0,
        &serde_json::to_vec(&Welcome {
            version,
            sandbox,
            cli,
            turn: None,
            tag: None,
            last_event: 7,
            resend_to: 7,
            commands_ms: 0,
            tasks: 0,
        })
        .unwrap(),
    )
}

fn framed(kind: Kind, number: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write(&mut bytes, kind, number, body).unwrap();
    bytes
}

async fn read_frame(socket: &mut UnixStream) -> (Header, Vec<u8>) {
    let mut head = [0; HEADER];
    socket.read_exact(&mut head).await.unwrap();
    let header = Header::decode(&head).unwrap();
    let mut body = vec![0; header.body];
    socket.read_exact(&mut body).await.unwrap();
    (header, body)
}

/// Connects to a bridge that says `words` and hangs up when it has said all.
async fn talk(words: Vec<u8>) -> Result<(LinkSender, LinkReceiver, Welcome), LinkError> {
    let (Place { path, listener, _dir }, sandbox) = (place(), SandboxId::random());
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_frame(&mut socket).await;
        socket.write_all(&welcome(sandbox, ash_wire::VERSION)).await.unwrap();
        // A reader that has had enough hangs up early.
        let _ = socket.write_all(&words).await;
    });
    connect(&path, sandbox, 0).await
}

/// Everything that a receiver gets, and how it ended.
async fn all(receiver: &mut LinkReceiver, max: usize) -> (Vec<Incoming>, Result<(), LinkError>) {
    let mut got = Vec::new();
    loop {
        match receiver.recv_batch(&mut got, max).await {
            Ok(Some(_)) => {}
            Ok(None) => return (got, Ok(())),
            Err(error) => return (got, Err(error)),
        }
    }
}

#[tokio::test]
async fn both_ends_hear_each_other() {
    let (place, sandbox) = (place(), SandboxId::random());
    let bridge = async {
        let (mut socket, _) = place.listener.accept().await.unwrap();
        let (header, body) = read_frame(&mut socket).await;
        let hello: Hello = serde_json::from_slice(&body).unwrap();
        assert_eq!((header.kind, hello.resend_from), (Kind::Hello, 5));
        socket.write_all(&welcome(sandbox, 1)).await.unwrap();
        socket.write_all(&framed(Kind::Line, 8, b"{}")).await.unwrap();
        let mut heard = Vec::new();
        while heard.len() < 5 {
            let (header, _) = read_frame(&mut socket).await;
            heard.push((header.kind, header.number));
        }
        heard
    };
    let ashd = async {
        let (sender, mut receiver, welcome) = connect(&place.path, sandbox, 5).await.unwrap();
        assert_eq!(welcome.last_event, 7);
        let content = RawValue::from_string("\"hi\"".into()).unwrap();
        sender.turn(&Turn { id: "t".into(), content: content.clone() }).unwrap();
        sender.interrupt(sender.next_id()).unwrap();
        sender.control(3, &content).unwrap();
        sender.exec_kill(4).unwrap();
        sender.ack(8).unwrap();
        let mut got = Vec::new();
        assert_eq!(receiver.recv_batch(&mut got, 8).await.unwrap(), Some(1));
        assert!(matches!(&got[0], Incoming::Line { number: 8, line } if &line[..] == b"{}"));
        receiver
    };
    let (receiver, heard) = tokio::join!(ashd, bridge);
    let kinds: Vec<_> = heard.iter().map(|(kind, _)| *kind).collect();
    let expected = [Kind::Turn, Kind::Interrupt, Kind::Control, Kind::ExecKill, Kind::Ack];
    assert_eq!(kinds, expected);
    assert_eq!((heard[2].1, heard[4].1), (3, 8));
    drop(receiver);
}

/// Also of what was there already, and of half a frame.
#[tokio::test]
async fn a_receiver_at_rest_keeps_no_room_and_loses_nothing() {
    let lines: Vec<u8> = (1..=3).flat_map(|n| framed(Kind::Line, n, b"{}")).collect();
    let (_sender, mut receiver, _) = talk(lines).await.unwrap();
    let mut got = Vec::new();
    while receiver.recv_batch(&mut got, 1).await.unwrap().is_some() {
        receiver.rest();
    }
    let number = |said: &Incoming| match said {
        Incoming::Line { number, .. } => *number,
        other => panic!("{other:?}"),
    };
    assert_eq!(got.iter().map(number).collect::<Vec<_>>(), [1, 2, 3]);
    receiver.rest();
    assert_eq!(receiver.room(), 0);
}

#[tokio::test]
async fn only_a_bridge_that_can_answer_is_asked_for_everything() {
    for version in ash_wire::OLDEST_VERSION..=ash_wire::VERSION {
        let (place, sandbox) = (place(), SandboxId::random());
        let bridge = async {
            let (mut socket, _) = place.listener.accept().await.unwrap();
            read_frame(&mut socket).await;
            socket.write_all(&welcome(sandbox, version)).await.unwrap();
            let (asked, _) = read_frame(&mut socket).await;
            socket.write_all(&framed(Kind::Drained, asked.number, b"")).await.unwrap();
            (socket, asked)
        };
        let ashd = async {
            let (sender, mut receiver, _) = connect(&place.path, sandbox, 0).await.unwrap();
            let id = sender.drain().unwrap();
            sender.exec_kill(7).unwrap();
            let mut got = Vec::new();
            receiver.recv_batch(&mut got, 8).await.unwrap();
            let [Incoming::Drained { id: answered }] = got[..] else { panic!("{got:?}") };
            assert_eq!(answered, id.unwrap_or(7));
            id
        };
        let (id, (_socket, asked)) = tokio::join!(ashd, bridge);
        let can = version >= ash_wire::DRAINS;
        let first = if can { Kind::Drain } else { Kind::ExecKill };
        assert_eq!((id.is_some(), asked.kind), (can, first), "version {version}");
    }
}

#[tokio::test]
async fn strangers_and_the_unborn_are_refused() {
    let (place, sandbox) = (place(), SandboxId::random());
    let place = &place;
    let answer = |words: Vec<u8>| async move {
        let bridge = async {
            let (mut socket, _) = place.listener.accept().await.unwrap();
            read_frame(&mut socket).await;
            socket.write_all(&words).await.unwrap();
        };
        tokio::join!(connect(&place.path, sandbox, 0), bridge).0.map(|_| ()).unwrap_err()
    };
    let stranger = answer(welcome(SandboxId::random(), 1)).await;
    assert!(matches!(stranger, LinkError::Stranger { .. }), "{stranger}");
    assert!(matches!(answer(welcome(sandbox, 99)).await, LinkError::Version(99)));
    let early = answer(framed(Kind::Line, 1, b"{}")).await;
    assert!(matches!(early, LinkError::OutOfPlace(Kind::Line)), "{early}");
    assert!(matches!(answer(Vec::new()).await, LinkError::Gone));
}

#[tokio::test]
async fn a_broken_frame_ends_the_conversation_behind_what_came_before() {
    let good = framed(Kind::Delta, 1, b"{}");
    let too_long = u32::try_from(MAX_BODY + HEADER).unwrap().to_le_bytes();
    let mut out_of_place = framed(Kind::Start, 0, b"{}");
    out_of_place.extend(framed(Kind::Delta, 2, b"{}"));
    let broken = [
        vec![0; HEADER],
        vec![255; HEADER],
        [&too_long[..], &[65; 9]].concat(),
        out_of_place,
        framed(Kind::Welcome, 0, b"{}"),
        framed(Kind::Notice, 2, b"nonsense"),
        framed(Kind::ExecExit, 2, b"{}"),
        framed(Kind::ControlReply, 2, "[".repeat(100_000).as_bytes()),
        framed(Kind::Line, 2, b"cut off")[..15].to_vec(),
    ];
    for words in broken {
        for max in [1, 100] {
            let talk = talk([&good[..], &words].concat()).await;
            let (_sender, mut receiver, _) = talk.unwrap();
            let (got, end) = all(&mut receiver, max).await;
            assert_eq!(got.len(), 1, "{words:?}");
            assert!(end.is_err(), "{words:?}");
        }
    }
}

#[tokio::test]
async fn what_is_said_of_a_broken_frame_does_not_grow_with_it() {
    let body = format!("\"{}\"", "\u{7f}".repeat(1 << 20));
    for kind in [Kind::Notice, Kind::ControlReply, Kind::ExecExit] {
        let (_sender, mut receiver, _) = talk(framed(kind, 1, body.as_bytes())).await.unwrap();
        let (_, end) = all(&mut receiver, 1).await;
        let said = end.unwrap_err().to_string();
        assert!(said.contains("malformed") && said.len() < 1024, "{} bytes", said.len());
    }
}

#[tokio::test]
async fn large_lines_and_small_batches_arrive_whole() {
    let big = vec![b'x'; 3_000_000];
    let notice = serde_json::to_vec(&Notice::SelfTurnBegan).unwrap();
    let words = [
        framed(Kind::Line, 1, &big),
        framed(Kind::Notice, 2, &notice),
        framed(Kind::Stderr, 0, b"oh"),
        framed(Kind::Tasks, 9, b""),
        framed(Kind::Line, 3, b""),
    ];
    let (_sender, mut receiver, _) = talk(words.concat()).await.unwrap();
    let mut got = Vec::new();
    assert_eq!(receiver.recv_batch(&mut got, 1).await.unwrap(), Some(1));
    assert_eq!(got.len(), 1);
    let (rest, end) = all(&mut receiver, 2).await;
    end.unwrap();
    assert!(matches!(&got[0], Incoming::Line { line, .. } if line.len() == big.len()));
    assert!(matches!(
        &rest[..],
        [
            Incoming::Notice { number: 2, notice: Notice::SelfTurnBegan },
            Incoming::Stderr(_),
            Incoming::Tasks { running: 9 },
            Incoming::Line { number: 3, .. },
        ]
    ));
}

#[tokio::test]
async fn a_bridge_that_does_not_read_is_found_out() {
    let (place, sandbox) = (place(), SandboxId::random());
    let bridge = async {
        let (mut socket, _) = place.listener.accept().await.unwrap();
        read_frame(&mut socket).await;
        socket.write_all(&welcome(sandbox, 1)).await.unwrap();
        socket
    };
    let (link, socket) = tokio::join!(connect(&place.path, sandbox, 0), bridge);
    let (sender, receiver, _) = link.unwrap();
    let content = RawValue::from_string(format!("\"{}\"", "x".repeat(MAX_BODY / 2))).unwrap();
    let stuck = (0..6).find_map(|_| sender.control(1, &content).err());
    assert!(matches!(stuck, Some(LinkError::Stuck)));
    let huge = RawValue::from_string(format!("\"{}\"", "x".repeat(MAX_BODY))).unwrap();
    assert!(matches!(sender.control(1, &huge), Err(LinkError::TooLong(_))));
    drop((socket, receiver));
    assert!(matches!(sender.shutdown(), Err(LinkError::Gone)));
    assert!(matches!(sender.ack(1), Err(LinkError::Gone)));
}

#[tokio::test]
async fn what_waits_is_sent_before_the_line_is_hung_up() {
    let (place, sandbox) = (place(), SandboxId::random());
    let bridge = async {
        let (mut socket, _) = place.listener.accept().await.unwrap();
        read_frame(&mut socket).await;
        socket.write_all(&welcome(sandbox, 1)).await.unwrap();
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        rest
    };
    let ashd = async {
        let (sender, receiver, _) = connect(&place.path, sandbox, 0).await.unwrap();
        for number in 1..100 {
            sender.ack(number).unwrap();
        }
        sender.shutdown().unwrap();
        drop(receiver);
    };
    let ((), rest) = tokio::join!(ashd, bridge);
    let expected = [framed(Kind::Shutdown, 0, b""), framed(Kind::Ack, 99, b"")].concat();
    assert_eq!(rest, expected);
}

/// The rate is printed, not asserted: the machine is shared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_frames_arrive_in_order() {
    const COUNT: u64 = 300_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = StdListener::bind(&path).unwrap();
    let sandbox = SandboxId::random();
    let bridge = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        frame::read(&mut socket).unwrap().unwrap();
        socket.write_all(&welcome(sandbox, 1)).unwrap();
        let mut bytes = Vec::new();
        for number in 1..=COUNT {
            frame::write(&mut bytes, Kind::Delta, number, &[b'x'; 100]).unwrap();
            if bytes.len() > 64 * 1024 {
                socket.write_all(&bytes).unwrap();
                bytes.clear();
            }
        }
        socket.write_all(&bytes).unwrap();
    });
    let (_sender, mut receiver, _) = connect(&path, sandbox, 0).await.unwrap();
    let (start, mut next, mut batch) = (Instant::now(), 1, Vec::new());
    while receiver.recv_batch(&mut batch, 256).await.unwrap().is_some() {
        for message in batch.drain(..) {
            assert!(matches!(message, Incoming::Delta { number, .. } if number == next));
            next += 1;
        }
    }
    assert_eq!(next, COUNT + 1);
    println!("{:.0} frames/s", COUNT as f64 / start.elapsed().as_secs_f64());
    bridge.join().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a bridge says, cut as it likes: an end or an error, and never a panic.
    #[test]
    fn any_bytes_are_survived(
        kinds in proptest::collection::vec(60u8..75, 0..8),
        body in proptest::collection::vec(any::<u8>(), 0..64),
        noise in proptest::collection::vec(any::<u8>(), 0..64),
        max in 1usize..4,
    ) {
        let mut words = Vec::new();
        for kind in kinds {
            let length = u32::try_from(body.len() + HEADER - 4).unwrap();
            words.extend(length.to_le_bytes());
            words.push(kind);
            words.extend(7u64.to_le_bytes());
            words.extend(&body);
        }
        words.extend(noise);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_sender, mut receiver, _) = talk(words).await.unwrap();
            let _ = all(&mut receiver, max).await;
        });
    }
}
