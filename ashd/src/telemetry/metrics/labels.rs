//! The values that labels can have. All of them are known beforehand, and none comes from outside: a
//! series that exists costs whoever scrapes it memory for as long as it is kept.

use crate::domain::Status;

/// What the series of a family are told apart by: each has a value for every label of the family.
pub trait Word: Copy + 'static {
    /// Every one, in order.
    const ALL: &'static [Self];

    /// Its place among them.
    fn index(self) -> usize;

    /// The values of the labels, in their order.
    fn values(self) -> &'static [&'static str];
}

/// Declares words, each with the values that stand for it.
macro_rules! words {
    ($(
        $(#[doc = $about:literal])+
        $Name:ident {$(
            $(#[doc = $doc:literal])+
            $Word:ident = [$($value:literal),+],
        )+}
    )+) => {$(
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $Name {$(
            $(#[doc = $doc])+
            $Word,
        )+}

        impl Word for $Name {
            const ALL: &'static [Self] = &[$($Name::$Word),+];

            fn index(self) -> usize {
                self as usize
            }

            fn values(self) -> &'static [&'static str] {
                match self {
                    $($Name::$Word => &[$($value),+],)+
                }
            }
        }
    )+};
}

words! {
    /// What a sandbox of this machine is doing.
    PoolState {
        /// It is none any more, or none yet: what there is of its session lies on the disk.
        Cold = ["cold"],
        /// It is being made.
        Warming = ["warming"],
        /// It is made, and for no session yet.
        Warm = ["warm"],
        /// Its session runs no turn.
        Waiting = ["waiting"],
        /// Its session runs a turn.
        Running = ["running"],
    }

    /// What a resume found.
    ResumePath {
        /// The sandbox was alive.
        Warm = ["warm"],
        /// A sandbox had to be made.
        Cold = ["cold"],
        /// A sandbox had been made beforehand.
        Prewarm = ["prewarm"],
    }

    /// Where the files of a session were that got a sandbox again.
    ColdSource {
        /// On this machine.
        Local = ["local"],
        /// Some of them only in the object store.
        Cloud = ["cloud"],
        /// The transcript was gone: the conversation began anew.
        Fresh = ["fresh"],
    }

    /// How a session was resumed.
    Resumed {
        /// Its sandbox was alive.
        Warm = ["warm", "none"],
        /// With files of this machine.
        Local = ["cold", "local"],
        /// With files of the object store.
        Cloud = ["cold", "cloud"],
        /// Without its transcript.
        Fresh = ["cold", "fresh"],
    }

    /// What is done one behind the other, or beside each other, when a sandbox is made.
    SpawnPhase {
        /// Laying out the agent's folder; only for new sessions.
        LayOut = ["lay_out"],
        /// Making its control group, its socket and its plan.
        Prepare = ["prepare"],
        /// Giving it its way to the model, beside that.
        Grant = ["grant"],
        /// Having the launcher start it.
        Launch = ["launch"],
        /// Waiting for its bridge to answer.
        Greet = ["greet"],
    }

    /// How a turn ended.
    TurnEnd {
        /// With a result.
        Result = ["result"],
        /// With a result that says that it is an error.
        Error = ["error"],
        /// It was interrupted: before the CLI had begun it, or with a result that says that it is an error.
        Interrupted = ["interrupted"],
        /// The CLI did not take it, or has ended it without a result.
        Failed = ["failed"],
        /// Its sandbox was lost.
        SandboxLost = ["sandbox_lost"],
        /// Its session was stopped or ended.
        Stopped = ["stopped"],
        /// The daemon was shut down.
        Shutdown = ["shutdown"],
    }

    /// The class of an HTTP status (RFC 9110, section 15).
    Class {
        /// It goes on.
        Informational = ["1xx"],
        /// It is done.
        Successful = ["2xx"],
        /// It is elsewhere.
        Redirection = ["3xx"],
        /// Whoever asked is at fault.
        ClientError = ["4xx"],
        /// Whoever answered is at fault.
        ServerError = ["5xx"],
    }

    /// The class of the status that the model API answers with. The broker passes on no others.
    Answered {
        /// With what was asked for.
        Successful = ["2xx"],
        /// Whoever asked is at fault.
        ClientError = ["4xx"],
        /// The model API is at fault.
        ServerError = ["5xx"],
    }

    /// Why a request to the model got no answer of it.
    Unanswered {
        /// The broker had not been told where it is.
        NotReady = ["not_ready"],
        /// The broker had no key.
        NoKey = ["no_key"],
        /// There was no connection.
        Unreachable = ["unreachable"],
        /// It ended the connection first, or what it said is not passed on.
        BadAnswer = ["bad_answer"],
        /// It said nothing in time.
        Silent = ["silent"],
    }

    /// The method of an HTTP request.
    Verb {
        /// Look.
        Get = ["GET"],
        /// Look at the head only.
        Head = ["HEAD"],
        /// Do.
        Post = ["POST"],
        /// Put in place.
        Put = ["PUT"],
        /// Change.
        Patch = ["PATCH"],
        /// Remove.
        Delete = ["DELETE"],
        /// Ask what may be asked.
        Options = ["OPTIONS"],
        /// Whatever else a client writes.
        Other = ["other"],
    }

    /// What tokens are for.
    TokenKind {
        /// The prompt, as far as it came from no cache.
        Input = ["input"],
        /// The answer.
        Output = ["output"],
        /// What was written to the prompt cache.
        CacheCreation = ["cache_creation"],
        /// What was read from the prompt cache.
        CacheRead = ["cache_read"],
    }

    /// Whose memory had run out.
    Exhausted {
        /// That of the sandbox: its limit was reached.
        Sandbox = ["sandbox"],
        /// That of the machine.
        Server = ["server"],
    }

    /// How far down the idle ladder an agent is that still lives.
    Resting {
        /// It stands still.
        Frozen = ["frozen"],
        /// It stands still, and has given its memory back.
        Reclaimed = ["reclaimed"],
    }

    /// Why a sandbox was ended that nobody had asked to be.
    Eviction {
        /// Nothing had happened in it for long.
        Idle = ["idle"],
        /// Another one needed its room.
        Capacity = ["capacity"],
    }

    /// Why a sandbox that was kept warm ended, or is none, before a session had it.
    SpareEnd {
        /// It was lost while it waited.
        Lost = ["lost"],
        /// It could not be made, or not be given to the session that was to have it.
        Failed = ["failed"],
        /// Another one needed its room, or memory was short.
        Capacity = ["capacity"],
        /// Sessions of its agent are made with something else by now.
        Outdated = ["outdated"],
        /// Fewer are wanted.
        Surplus = ["surplus"],
        /// Its agent is gone, wants none any more, or can have none.
        Gone = ["gone"],
    }

    /// What is begun only as others come to their ends.
    Gated {
        /// Turns that messages began.
        Turns = ["turns"],
        /// Sandboxes that are made.
        Launches = ["launches"],
    }

    /// What there can be too little of.
    Want {
        /// Sandboxes that may live.
        Sandboxes = ["sandboxes"],
        /// Sandboxes that one tenant may have.
        Tenant = ["tenant"],
        /// Sandboxes that one agent may have.
        Agent = ["agent"],
        /// Sandboxes that are made at the same time.
        Launches = ["launches"],
        /// Turns that run at the same time.
        Turns = ["turns"],
        /// Room on the disk.
        Disk = ["disk"],
        /// Memory.
        Memory = ["memory"],
        /// Processes and threads.
        Processes = ["processes"],
        /// User ids that a session's files can belong to.
        Uids = ["uids"],
    }

    /// What a machine can be short of for a while.
    Scarce {
        /// Processors: tasks stand still for want of them.
        Cpu = ["cpu"],
        /// Memory: tasks stand still for want of it, or less is left than must stay free.
        Memory = ["memory"],
        /// Disks: tasks stand still for want of them.
        Io = ["io"],
        /// Processes and threads: few more could be made.
        Processes = ["processes"],
    }

    /// What did not get to whom it was for.
    Dropped {
        /// Readers of a stream that fell behind what is kept in memory, and go on in the store.
        Readers = ["readers"],
        /// Reports of the broker on model calls.
        UsageReports = ["usage_reports"],
    }

    /// Why somebody was refused.
    Denied {
        /// Host or Origin is none of ours.
        Place = ["place"],
        /// There was no API key, or a wrong one.
        Key = ["key"],
        /// The API key's scope is not enough.
        Scope = ["scope"],
        /// The client had asked too often.
        Rate = ["rate"],
        /// The broker let a sandbox's request not through.
        Broker = ["broker"],
    }
}

impl Word for Status {
    const ALL: &'static [Self] = &Status::ALL;

    fn index(self) -> usize {
        self as usize
    }

    fn values(self) -> &'static [&'static str] {
        match self {
            Status::Starting => &["starting"],
            Status::Active => &["active"],
            Status::Paused => &["paused"],
            Status::Stopped => &["stopped"],
            Status::Ended => &["ended"],
            Status::Error => &["error"],
        }
    }
}

impl Class {
    /// The class of a status. What is none counts as a fault of whoever answered.
    pub fn of(status: u16) -> Class {
        match status {
            100..200 => Class::Informational,
            200..300 => Class::Successful,
            300..400 => Class::Redirection,
            400..500 => Class::ClientError,
            _ => Class::ServerError,
        }
    }
}

impl Answered {
    /// The class of a status. What the broker does not pass on counts as a fault of the model API.
    pub fn of(status: u16) -> Answered {
        match Class::of(status) {
            Class::Successful => Answered::Successful,
            Class::ClientError => Answered::ClientError,
            Class::Informational | Class::Redirection | Class::ServerError => Answered::ServerError,
        }
    }
}

impl Verb {
    /// The word for a method as it stands in a request.
    pub fn of(method: &str) -> Verb {
        let known = Verb::ALL.iter().find(|verb| verb.values() == [method]);
        known.copied().unwrap_or(Verb::Other)
    }
}

impl Want {
    /// It in a word.
    pub fn as_str(self) -> &'static str {
        self.values()[0]
    }
}

impl Scarce {
    /// It in a word.
    pub fn as_str(self) -> &'static str {
        self.values()[0]
    }
}

impl TurnEnd {
    /// How a turn ended that has a result.
    pub fn of_result(is_error: bool) -> TurnEnd {
        if is_error { TurnEnd::Error } else { TurnEnd::Result }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_the_names_that_they_have_elsewhere() {
        for (place, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!((status.index(), status.values()), (place, &[status.as_str()][..]));
        }
    }

    #[test]
    fn whatever_a_client_writes_is_one_of_few_words() {
        for (method, verb) in
            [("GET", Verb::Get), ("get", Verb::Other), ("BREW", Verb::Other), ("", Verb::Other)]
        {
            assert_eq!(Verb::of(method), verb, "{method}");
        }
        for (status, class) in [(101, "1xx"), (200, "2xx"), (304, "3xx"), (499, "4xx"), (0, "5xx")]
        {
            assert_eq!(Class::of(status).values(), [class], "{status}");
        }
        for (status, class) in [(200, "2xx"), (429, "4xx"), (529, "5xx"), (302, "5xx")] {
            assert_eq!(Answered::of(status).values(), [class], "{status}");
        }
    }
}
