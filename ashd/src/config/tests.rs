//! Files, variables, and everything that can be wrong with them.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

/// A directory with a configuration file.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new(text: &str) -> Dir {
        let dir = Dir(tempfile::tempdir().unwrap());
        dir.write("ashd.toml", text, 0o644);
        dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn load(&self, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let env = env.iter().map(|(name, value)| (name.into(), value.into()));
        Config::load(Some(&self.path("ashd.toml")), env)
    }

    fn explain(&self, env: &[(&str, &str)]) -> Result<Vec<Explained>, ConfigError> {
        let env = env.iter().map(|(name, value)| (name.into(), value.into()));
        Config::explain(Some(&self.path("ashd.toml")), env)
    }

    /// What is wrong, without the name of the directory.
    fn problems(&self, env: &[(&str, &str)]) -> Vec<String> {
        let ConfigError(problems) = self.load(env).unwrap_err();
        let dir = format!("{}/", self.0.path().display());
        problems.iter().map(|problem| problem.to_string().replace(&dir, "")).collect()
    }
}

#[test]
fn everything_has_a_default() {
    let config = Dir::new("").load(&[]).unwrap();
    assert_eq!((config.http.host, config.http.port), (Ipv4Addr::LOCALHOST.into(), 4100));
    assert_eq!(config.state.run_dir, Path::new("/run/ash"));
    assert_eq!(config.state.libexec_dir, Path::new("/usr/lib/ash"));
    assert_eq!(config.sandbox.memory, Size(2 << 30));
    assert_eq!(config.sandbox.ready_timeout, Duration::from_secs(10));
    assert_eq!(config.model.id, "claude-sonnet-4-5-20250929");
    assert!(config.state.agent_roots.is_empty() && config.model.key.is_none());
}

#[test]
fn later_sources_win() {
    let dir = Dir::new("[http]\nport = 1\nhost = \"127.0.0.2\"\n[session]\nqueue = 1");
    dir.write("ashd.toml.d/20-b.toml", "[http]\nport = 3\n[session]\nqueue = 3", 0o644);
    dir.write("ashd.toml.d/10-a.toml", "[http]\nport = 2", 0o644);
    dir.write("ashd.toml.d/30-c.toml.bak", "[http]\nport = 4", 0o644);
    let config = dir.load(&[("ASH_PORT", "5"), ("ASH_HOST", "")]).unwrap();
    assert_eq!((config.http.port, config.session.queue), (5, 3));
    assert_eq!(config.http.host, Ipv4Addr::new(127, 0, 0, 2));
}

#[test]
fn variables_are_read_in_their_own_way() {
    let env = [
        ("ASH_SANDBOX_MEMORY_MB", "512"),
        ("ASH_AGENT_ROOTS", "/srv/a:/srv/b"),
        ("ALLOWED_ORIGINS", "https://a.example, https://b.example"),
        ("ASH_ALLOW_MISSING_LIMITS", "1"),
        ("ASH_API_KEY", "ash_x"),
        ("ANTHROPIC_API_KEY", "sk-x"),
        ("ASH_PERMISSION_MODE", "permissionsByAgent"),
        ("HTTPS_PROXY", "http://user:pw@proxy:3128"),
        ("HTTP_PROXY", "http://other:3128"),
        ("NO_PROXY", "localhost,.example"),
    ];
    let config = Dir::new("").load(&env).unwrap();
    assert_eq!(config.sandbox.memory, Size(512 << 20));
    assert_eq!(config.state.agent_roots, [Path::new("/srv/a"), Path::new("/srv/b")]);
    assert_eq!(config.http.allowed_origins, ["https://a.example", "https://b.example"]);
    assert_eq!(config.sandbox.allow_missing_limits, Some(true));
    assert_eq!(config.session.permission_mode.as_str(), "dontAsk");
    assert_eq!(config.model.proxy_in_use().unwrap().expose(), "http://user:pw@proxy:3128");
    let shown = format!("{config:?}");
    assert!(!["ash_x", "sk-x", "pw@"].iter().any(|secret| shown.contains(secret)), "{shown}");
}

#[test]
fn all_problems_are_told_at_once() {
    let dir = Dir::new(
        "port = 4100\n\
         [http]\n\
         host = \"example.com\"\n\
         port = \"4100\"\n\
         prot = 1\n\
         api_key = \"ash_secret\"\n\
         queue = 16\n\
         allowed_origins = [\"https://app.example.com\", \"https://app.example.com/\"]\n\
         allowed_hosts = [\"ash.example.com:443\"]\n\
         rate_window = \"0s\"\n\
         [sandbox]\n\
         memory = \"2 gigs\"\n\
         uid_base = 1000\n\
         claude = \"bin/claude\"\n\
         [state]\n\
         run_dir = \"/run/ash/of/a/daemon/with/a/very/long/name/indeed\"\n\
         agent_roots = [1]\n\
         [log]\n\
         level = \"loud\"\n\
         [model]\n\
         base_url = \"http://example.com\"\n\
         proxy = \"socks5://proxy\"\n\
         [admission]\n\
         patience = \"2h\"\n",
    );
    let env = [("ASH_PERMISSION_MODE", "yolo"), ("ASH_SANDBOX_MEMORY_MB", "2GiB")];
    insta::assert_snapshot!(dir.problems(&env).join("\n"));
}

#[test]
fn what_could_never_work_is_refused() {
    for (section, line, reason) in [
        ("sandbox", "max = 0", "must be above 0; without sandboxes no session begins"),
        ("sandbox", "memory = \"0MiB\"", "must be above 0; without memory no session begins"),
        ("sandbox", "pids = 0", "must be above 0; without processes no session begins"),
        ("sandbox", "tmpfs = 0", "must be above 0; without room for files no session begins"),
        ("sandbox", "file_size = 0", "must be above 0; without room for files no session begins"),
        ("sandbox", "ready_timeout = \"0s\"", "must be longer than 0s"),
        ("sandbox", "cli_timeout = \"0ms\"", "must be longer than 0s"),
        ("sandbox", "orphan_timeout = \"999ms\"", "must be 1s or longer"),
        ("snapshots", "collect_every = \"0s\"", "must be longer than 0s"),
    ] {
        let (key, _) = line.split_once(" = ").unwrap();
        let problems = Dir::new(&format!("[{section}]\n{line}\n")).problems(&[]);
        let expected = format!("ashd.toml:2: {section}.{key}: {reason}");
        assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{problems:?}");
    }
    let least = "[sandbox]\nmax = 1\npids = 1\norphan_timeout = \"1s\"\nready_timeout = \"1ms\"\n";
    assert_eq!(Dir::new(least).load(&[]).unwrap().sandbox.max, 1);
}

#[test]
fn broken_files_are_told_with_their_lines() {
    let dir = Dir::new("[http]\nport = \nhost = oops\n[http]\n");
    dir.write("ashd.toml.d/x.toml", "[http]\nport = 70000\n", 0o644);
    insta::assert_snapshot!(dir.problems(&[]).join("\n"));

    let missing = Config::load(Some(&dir.path("no.toml")), []).unwrap_err().to_string();
    assert!(missing.contains("no.toml:1: cannot be read: No such file"), "{missing}");
    let named = [("ASH_CONFIG".into(), dir.path("no.toml").into())];
    assert_eq!(Config::load(None, named).unwrap_err().to_string(), missing);
}

#[test]
fn the_key_file_must_be_private() {
    let dir = Dir::new("");
    let key = dir.write("key", "sk-file\n", 0o640);
    dir.write("ashd.toml", &format!("[model]\nkey_file = {key:?}"), 0o644);
    let problem = &dir.problems(&[])[0];
    assert!(problem.starts_with("ashd.toml:2: model.key_file: others can read it"), "{problem}");
    assert!(problem.ends_with("run: chmod 600 key"), "{problem}");

    dir.write("key", "sk-file\n", 0o600);
    assert_eq!(dir.load(&[]).unwrap().model.key.unwrap().expose(), "sk-file");
    let both = dir.load(&[("ANTHROPIC_API_KEY", "sk-env")]).unwrap();
    assert_eq!(both.model.key.unwrap().expose(), "sk-env");
    dir.write("key", "two words", 0o600);
    assert!(!dir.problems(&[])[0].contains("two words"));
}

#[test]
fn the_file_of_authorities_must_be_one() {
    let dir = Dir::new("[model]\nca_file = \"/no/such.pem\"\n");
    let problem = &dir.problems(&[])[0];
    let expected = "ashd.toml:2: model.ca_file: /no/such.pem cannot be read: No such file";
    assert!(problem.starts_with(expected), "{problem}");
    let problem = &dir.problems(&[("SSL_CERT_FILE", "/")])[0];
    let expected = "model.ca_file: / cannot be read: it is no regular file";
    assert!(problem.ends_with(expected), "{problem}");
}

/// Nobody writes into them: whoever opened one would wait for ever.
#[test]
fn pipes_are_no_files() {
    let dir = Dir::new("");
    fs::create_dir(dir.path("ashd.toml.d")).unwrap();
    for name in ["key", "ashd.toml.d/10-pipe.toml"] {
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path(name), mode).unwrap();
    }
    let wanted = ["ashd.toml.d/10-pipe.toml:1: cannot be read: it is no regular file"];
    assert_eq!(dir.problems(&[]), wanted);
    fs::remove_file(dir.path("ashd.toml.d/10-pipe.toml")).unwrap();
    for (section, key) in [("model", "key_file"), ("model", "ca_file"), ("snapshots", "key_file")] {
        let pipe = dir.path("key");
        dir.write("ashd.toml", &format!("[{section}]\n{key} = {pipe:?}"), 0o644);
        let wanted =
            format!("ashd.toml:2: {section}.{key}: key cannot be read: it is no regular file");
        assert_eq!(dir.problems(&[]), [wanted]);
    }
    let named = Config::load(Some(&dir.path("key")), []).unwrap_err().to_string();
    assert!(named.contains("key:1: cannot be read: it is no regular file"), "{named}");
}

#[test]
fn a_link_to_nothing_says_nothing() {
    let dir = Dir::new("[http]\nport = 1\n");
    fs::create_dir(dir.path("ashd.toml.d")).unwrap();
    std::os::unix::fs::symlink("/dev/null", dir.path("ashd.toml.d/10-off.toml")).unwrap();
    assert_eq!(dir.load(&[]).unwrap().http.port, 1);
    let nothing = Config::load(Some(Path::new("/dev/null")), []).unwrap();
    assert_eq!(nothing, Dir::new("").load(&[]).unwrap());
}

#[test]
fn sockets_have_a_short_home_of_their_own() {
    let dir = Dir::new("");
    let run_dir = |data: &Path| {
        let env = [("ASH_DATA_DIR", data.to_str().unwrap())];
        dir.load(&env).unwrap().state.run_dir
    };
    let one = run_dir(&dir.path("one"));
    assert_ne!(one, run_dir(&dir.path("two")));
    assert_eq!(one.as_os_str().len(), "/run/ash-01234567".len());
    // The same directory by another name, before and after it is made.
    std::os::unix::fs::symlink(dir.0.path(), dir.path("link")).unwrap();
    assert_eq!(one, run_dir(&dir.path("link/one")));
    fs::create_dir(dir.path("one")).unwrap();
    assert_eq!(one, run_dir(&dir.path("link/one")));
}

#[test]
fn other_machines_need_a_key() {
    let check = |env: &[(&str, &str)], stored| {
        let config = Dir::new("").load(env).unwrap();
        config.check_exposure(config.http.host, stored)
    };
    let open = ("ASH_HOST", "0.0.0.0");
    assert!(check(&[open], false).unwrap_err().to_string().contains("ASH_API_KEY"));
    assert_eq!(check(&[open], true), Ok(()));
    assert_eq!(check(&[open, ("ASH_API_KEY", "ash_x")], false), Ok(()));
    assert_eq!(check(&[("ASH_HOST", "localhost")], false), Ok(()));
}

#[test]
fn a_reload_takes_over_some_and_names_the_others() {
    let dir = Dir::new("");
    let mut running = dir.load(&[]).unwrap();
    let text = "[http]\nport = 1\n[sandbox]\npids = 9\nmax = 9\n[log]\nlevel = \"debug\"";
    dir.write("ashd.toml", text, 0o644);
    let new = dir.load(&[("ASH_AGENT_ROOTS", "/srv")]).unwrap();
    assert_eq!(running.changed(&new), ["http.port", "sandbox.max"]);
    assert_eq!(running.adopt(&new), ["state.agent_roots", "sandbox.pids", "log.level"]);
    assert_eq!((running.sandbox.pids, running.http.port), (9, 4100));
    assert_eq!(running.adopt(&new), [""; 0]);
}

#[test]
fn the_proxy_is_left_out_where_it_does_not_help() {
    let used = |base: &str, no_proxy: &str| {
        let env =
            [("ANTHROPIC_BASE_URL", base), ("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", no_proxy)];
        Dir::new("").load(&env).unwrap().model.proxy_in_use().is_some()
    };
    assert!(used("https://api.example.com", ""));
    assert!(used("https://api.example.com", "ample.com"));
    assert!(!used("https://api.example.com", "x,.example.com"));
    assert!(!used("https://api.example.com:8443/v1", "API.example.com"));
    assert!(!used("https://api.example.com", "*"));
    assert!(!used("http://127.0.0.1:8080", ""));
}

proptest::proptest! {
    #[test]
    fn any_text_is_understood_or_refused(
        text in "(\\[(http|model|state|x)\\]\n((port|key_file|agent_roots|id|y) = (1|\"a\"|\\[1\\]|\\.)\n){0,3}|.){0,4}",
        value in ".{0,8}",
    ) {
        let env = ["ASH_PORT", "ASH_SANDBOX_MEMORY_MB", "ASH_API_KEY", "ASH_LOG", "HTTPS_PROXY"];
        let env = env.map(|name| (name, value.as_str()));
        if let Err(refused) = Dir::new(&text).load(&env) {
            proptest::prop_assert!(!refused.0.is_empty());
        }
    }
}

#[test]
fn the_reference_is_what_users_read() {
    insta::assert_snapshot!(Config::reference());
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = fs::read_to_string(page).unwrap();
    assert!(page == Config::reference(), "write Config::reference() to docs/configuration.md");
}

#[test]
fn a_proxy_as_documented_takes_what_the_daemon_takes() {
    let page = include_str!("../../../docs/reverse-proxy.md");
    let (_, rest) = page.split_once("client_max_body_size ").unwrap();
    let http = Dir::new("").load(&[]).unwrap().http;
    let sizes = [http.max_deployment, http.max_message, http.max_upload, http.max_body];
    let largest = sizes.into_iter().map(|size| size.0).max().unwrap();
    assert!(rest.starts_with(&format!("{}g;", largest >> 30)), "{largest}");
}

#[test]
fn the_installed_file_shows_the_defaults_and_changes_nothing() {
    let sample = Config::sample();
    assert_eq!(Dir::new(&sample).load(&[]), Dir::new("").load(&[]));
    // Keys without a default have nothing behind the sign; the others can be taken as they stand.
    let used = |line: &str| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) && !key.ends_with('=') => {
            format!("{key}\n")
        }
        _ => format!("{line}\n"),
    };
    let used: String = sample.lines().map(used).collect();
    assert!(used.contains("\nhost = \"127.0.0.1\"\n") && used.contains("\nport = 4100\n"));
    assert_eq!(Dir::new(&used).load(&[]), Dir::new("").load(&[]));
}

#[test]
fn every_value_is_explained_and_no_secret_is() {
    let dir = Dir::new("[http]\nport = 4200\n[model]\nbase_url = \"https://m.example.com\"\n");
    let env = [("ANTHROPIC_API_KEY", "sk-very-secret"), ("ASH_SANDBOX_MEMORY_MB", "512")];
    let explained = dir.explain(&env).unwrap();
    assert_eq!(explained.len(), table::keys().count());
    let of = |key: &str| explained.iter().find(|one| one.key == key).unwrap();
    assert_eq!(of("http.port").value.as_deref(), Some("4200"));
    assert!(of("http.port").origin.to_string().ends_with("ashd.toml:2"));
    assert_eq!(of("sandbox.memory").value.as_deref(), Some("512MiB"));
    assert_eq!(of("sandbox.memory").origin, Origin::Variable("ASH_SANDBOX_MEMORY_MB"));
    assert_eq!(of("http.host").origin, Origin::Default);
    assert_eq!((&of("http.api_key").value, &of("bus.address").value), (&None, &None));
    assert_eq!(of("state.run_dir").value.as_deref(), Some("/run/ash"));
    assert_eq!(of("model.key").value.as_deref(), Some("[hidden]"));
    assert!(!format!("{explained:?}").contains("very-secret"));
    assert!(dir.explain(&[("ASH_PORT", "x")]).unwrap_err().to_string().contains("ASH_PORT"));
}
