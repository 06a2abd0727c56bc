//! The main job, end to end: the real CLI in a real sandbox, by HTTP and by `ashctl`.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Ash, Client, Options, Turn, programs};
use serde_json::{Value, json};

use crate::support::{bash, check_ids, counted, outline, times_asked};

#[test]
fn by_http() -> Result<()> {
    journey("journey::by_http", |ash| Box::new(ash.api()))
}

#[test]
fn by_ashctl() -> Result<()> {
    journey("journey::by_ashctl", |ash| Box::new(ash.ctl()))
}

/// A user on the way.
struct User {
    ash: Ash,
    connect: fn(&Ash) -> Box<dyn Client>,
    client: Box<dyn Client>,
    session: String,
}

fn journey(name: &str, connect: fn(&Ash) -> Box<dyn Client>) -> Result<()> {
    let Some(options) = Options::real(name) else { return Ok(()) };
    let mut user = User::begin(options, connect)?;
    user.sees_deltas().context("deltas")?;
    user.writes_a_file().context("a file written and read back")?;
    user.is_remembered().context("turns 1 and 2 in the request of turn 3")?;
    user.uses_the_folder().context("skill, hook, MCP tool")?;
    user.interrupts().context("interrupt in mid-stream")?;
    user.is_cut_off().context("client cut in mid-turn")?;
    user.loses_the_cli().context("CLI killed in mid-turn")?;
    user.loses_ashd().context("ashd killed in mid-turn")?;
    user.stops_and_resumes().context("stop and resume")?;
    user.talks_over_itself().context("two messages at once")?;
    user.ends().context("end")
}

impl User {
    fn begin(options: Options, connect: fn(&Ash) -> Box<dyn Client>) -> Result<User> {
        let ash = Ash::start(options)?;
        let folder = ash.agents_dir().join("research");
        let example = programs::repository().join("examples/research");
        let copied = Command::new("cp").arg("-r").args([&example, &folder]).status()?;
        ensure!(copied.success(), "examples/research cannot be copied");
        let client = connect(&ash);
        ensure!(client.deploy("research", &folder)? == 1);
        ensure!(client.deploy("research", &folder)? == 2, "a deployment is a version");
        let session = client.create("research", json!({}))?;
        ensure!(client.status(&session)? == "active");
        Ok(User { ash, connect, client, session })
    }

    fn send(&self, content: &str) -> Result<Turn> {
        self.client.send(&self.session, json!({ "content": content }))
    }

    fn ask(&self, content: &str) -> Result<Turn> {
        let turn = self.send(content)?.to_end()?;
        check_ids(&turn.seen)?;
        Ok(turn)
    }

    fn sees_deltas(&self) -> Result<()> {
        let turn = self.ask("[[count 20 5ms]]")?;
        ensure!(turn.named("text_delta").count() == 20, "{}", turn.raw());
        ensure!(turn.deltas_text() == counted(20) && turn.text() == counted(20));
        let names: Vec<_> = turn.seen.iter().map(|frame| frame.name.as_str()).collect();
        ensure!(names.first() == Some(&"session_start") && names.last() == Some(&"done"));
        Ok(())
    }

    fn writes_a_file(&self) -> Result<()> {
        let turn = self.ask(&bash(true, "echo written > f.txt && cat f.txt"))?;
        ensure!(turn.text() == "tool said: written", "{}", turn.raw());
        ensure!(turn.named("tool_use").any(|frame| frame.data["name"] == "Bash"));
        ensure!(turn.named("tool_result").any(|frame| frame.data["tool_use_id"].is_string()));
        let read = self.client.exec(&self.session, "cat f.txt; echo oops >&2; exit 3")?;
        ensure!((read.code, read.stdout.as_str()) == (3, "written\n"), "{read:?}");
        ensure!(read.stderr == "oops\n", "{read:?}");
        Ok(())
    }

    fn is_remembered(&self) -> Result<()> {
        self.ask("third")?;
        let requests = self.ash.model().requests();
        let third = requests.iter().rfind(|request| request.is_message()).context("no request")?;
        let text = third.body["messages"].to_string();
        for earlier in ["[[count 20 5ms]]", "echo written > f.txt", "tool said: written", "third"] {
            ensure!(text.contains(earlier), "{earlier} is not in the request of turn 3");
        }
        let messages = self.client.messages(&self.session)?;
        let asked: Vec<&Value> = messages
            .iter()
            .filter(|(role, _)| role == "user")
            .map(|(_, m)| &m["content"])
            .collect();
        ensure!(asked.contains(&&json!("third")), "{asked:?}");
        Ok(())
    }

    fn uses_the_folder(&self) -> Result<()> {
        let note = json!({ "title": "Ash trees", "text": "They burn when green." });
        let turn = self.ask(&format!("[[tool mcp__notes__notes_add {note}]]"))?;
        ensure!(turn.text().contains("kept as notes/0001-ash-trees.md"), "{}", turn.raw());
        let init = turn.named("message").find(|frame| frame.data["subtype"] == "init");
        let init = &init.context("the turn has no init")?.data;
        ensure!(init["skills"].to_string().contains("brief"), "{}", init["skills"]);
        ensure!(init["cwd"] == "/workspace", "{}", init["cwd"]);
        let fired = self.client.exec(&self.session, "cat activity.log")?.stdout;
        for event in ["UserPromptSubmit", "PostToolUse Bash", "PostToolUse mcp__notes__notes_add"] {
            ensure!(fired.contains(event), "{event} is not in {fired}");
        }
        Ok(())
    }

    fn interrupts(&self) -> Result<()> {
        let mut turn = self.send("[[count 100000 5ms]]")?;
        turn.deltas(10)?;
        ensure!(self.client.interrupt(&self.session)?, "a turn is running");
        turn.to_end()?;
        ensure!(!self.client.interrupt(&self.session)?, "no turn is running");
        ensure!(self.ask("[[say works]]")?.text() == "works");
        Ok(())
    }

    fn is_cut_off(&self) -> Result<()> {
        let mut turn = self.send("[[count 150 5ms]]")?;
        turn.deltas(20)?;
        turn.cut();
        let rest = self.client.follow(&self.session, Some(turn.last_id()?))?.to_end()?;
        let whole = [turn.seen.as_slice(), &rest.seen].concat();
        check_ids(&whole)?;
        ensure!(turn.deltas_text() + &rest.deltas_text() == counted(150));
        Ok(())
    }

    fn loses_the_cli(&self) -> Result<()> {
        let mut turn = self.send("[[count 100000 5ms]]")?;
        turn.deltas(10)?;
        self.ash.kill_inside("claude")?;
        let turn = turn.to_end()?;
        let errors = turn.errors();
        ensure!(errors.len() == 1 && errors[0].contains("signal 9"), "{errors:?}");
        ensure!(self.ask("[[history]]")?.text().contains("third"), "the conversation goes on");
        Ok(())
    }

    fn loses_ashd(&mut self) -> Result<()> {
        let prompt = "once [[count 150 5ms]]";
        let mut turn = self.send(prompt)?;
        turn.deltas(20)?;
        self.ash.crash()?;
        self.client = (self.connect)(&self.ash);
        // A stream of HTTP breaks with the daemon; ashctl attaches again by itself.
        while turn.next().is_ok_and(|frame| frame.is_some()) {}
        let mut whole = turn.seen.clone();
        if whole.last().is_none_or(|frame| frame.name != "done") {
            whole.extend(
                self.client.follow(&self.session, Some(turn.last_id()?))?.to_end()?.seen.clone(),
            );
        }
        check_ids(&whole)?;
        let deltas = whole.iter().filter(|frame| frame.name == "text_delta");
        let text: String = deltas.filter_map(|frame| frame.data["delta"].as_str()).collect();
        ensure!(text == counted(150), "{}", outline(&whole));
        ensure!(times_asked(self.ash.model(), prompt) == 1, "the model was asked again");
        Ok(())
    }

    fn stops_and_resumes(&self) -> Result<()> {
        let to = |verb: &str| self.client.turn_to(&self.session, verb);
        ensure!(to("pause")? == "paused" && to("resume")? == "active");
        ensure!(to("stop")? == "stopped");
        ensure!(self.ash.inside("claude").is_empty(), "a stopped session has no processes");
        ensure!(to("resume")? == "active");
        ensure!(self.client.exec(&self.session, "cat f.txt")?.stdout == "written\n");
        let told = self.ask("[[history]]")?.text();
        ensure!(told.contains("third") && told.contains("once"), "{told}");
        Ok(())
    }

    fn talks_over_itself(&self) -> Result<()> {
        let say = |text: &str, when_busy: &str| {
            let message = json!({ "content": format!("[[say {text}]]"), "whenBusy": when_busy });
            self.client.send(&self.session, message)
        };
        let mut first = self.send("[[count 100000 5ms]]")?;
        first.deltas(5)?;
        // By ashctl the refusal is how the stream ends, by HTTP there is no stream.
        let refused = say("refused", "reject").and_then(Turn::to_end).map(|turn| turn.raw());
        ensure!(refused.as_ref().is_err_and(|e| e.to_string().contains("busy")), "{refused:?}");
        let last = say("last", "queue")?;
        let urgent = say("urgent", "interrupt")?;
        first.to_end()?;
        let (urgent, last) = (urgent.to_end()?, last.to_end()?);
        ensure!(urgent.text() == "urgent" && last.text() == "last");
        Ok(())
    }

    fn ends(self) -> Result<()> {
        ensure!(self.client.turn_to(&self.session, "end")? == "ended");
        self.ash.none_inside("claude")?;
        self.ash.none_inside("bridge")?;
        let refused = self.send("x").and_then(Turn::to_end).map(|turn| turn.raw());
        ensure!(refused.is_err_and(|e| e.to_string().contains("Session is ended")));
        ensure!(!self.client.messages(&self.session)?.is_empty(), "history stays readable");
        self.ash.finish()
    }
}
