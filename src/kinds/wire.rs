//! Both ends of the wire, as either syntax writes them.

use crate::volfile::{At, Finding, Options, Syntax, Text, Value, Volume, decode};

use super::Settings;

/// Where GlusterFS' servers are heard when nothing else is said.
const PORT: u16 = 24007;

type Read = Option<(Settings, Vec<At<String>>)>;

/// `protocol/client`
pub(super) fn client(volume: &Volume, syntax: Syntax, findings: &mut Vec<Finding>) -> Read {
    let options = match syntax {
        Syntax::Toml => volume.options.clone(),
        Syntax::Classic => classic(volume, &CLIENT),
    };
    let settings: hermitfs_client::Options = decode(&volume.name, &options, findings)?;
    if !settings.address.is_local() && !settings.has_tls() {
        let place = place(volume, &["address", "remote-host"]);
        findings.push(far(place, "a client"));
        return None;
    }
    Some((Settings::Client(settings), volume.children.clone()))
}

/// `protocol/server`
pub(super) fn server(volume: &Volume, syntax: Syntax, findings: &mut Vec<Finding>) -> Read {
    let options = match syntax {
        Syntax::Toml => volume.options.clone(),
        Syntax::Classic => classic(volume, &SERVER),
    };
    let settings: hermitfs_server::Options = decode(&volume.name, &options, findings)?;
    if settings.listen.is_empty() {
        findings.push(
            Finding::error("a server without an address", place(volume, &["listen"]))
                .help("write `listen = [\"127.0.0.1:24007\"]`"),
        );
        return None;
    }
    if settings.listen.iter().any(|address| !address.is_local()) && !settings.has_tls() {
        let place = place(
            volume,
            &["listen", "transport.socket.bind-address", "bind-address"],
        );
        findings.push(far(place, "a server"));
        return None;
    }
    Some((Settings::Server(settings), volume.children.clone()))
}

/// Anybody between the two machines could read and change everything.
fn far(place: std::ops::Range<usize>, who: &str) -> Finding {
    Finding::error(
        format!("{who} that leaves this machine without mutual TLS"),
        place,
    )
    .label("not a loopback address, and not a Unix socket")
    .help(
        "give `certificate`, `key` and `authority` (PEM files), or use `127.0.0.1` or `unix:/path`",
    )
}

fn place(volume: &Volume, options: &[&str]) -> std::ops::Range<usize> {
    let found = volume
        .options
        .iter()
        .find(|(key, _)| options.contains(&key.value.as_str()));
    found.map_or(volume.name.span.clone(), |(_, value)| value.span.clone())
}

/// What GlusterFS calls the parts of an address.
struct Words {
    host: &'static [&'static str],
    port: &'static [&'static str],
    socket: &'static [&'static str],
    /// Our option that takes them together.
    ours: &'static str,
    list: bool,
}

const CLIENT: Words = Words {
    host: &["remote-host"],
    port: &["remote-port", "transport.socket.remote-port"],
    socket: &["transport.socket.connect-path"],
    ours: "address",
    list: false,
};

const SERVER: Words = Words {
    host: &["bind-address", "transport.socket.bind-address"],
    port: &["listen-port", "transport.socket.listen-port"],
    socket: &["transport.socket.listen-path"],
    ours: "listen",
    list: true,
};

/// Our options for GlusterFS': the parts of an address put together, the rest as it is. Where no
/// address is said it is this machine's own.
fn classic(volume: &Volume, words: &Words) -> Options {
    let mut options = Options::new();
    let (mut host, mut port, mut socket) = (None, None, None);
    let mut span = volume.name.span.clone();
    let mut open = false;
    for (key, value) in &volume.options {
        let slot = match key.value.as_str() {
            word if words.host.contains(&word) => &mut host,
            word if words.port.contains(&word) => &mut port,
            word if words.socket.contains(&word) => &mut socket,
            _ => {
                options.push((key.clone(), value.clone()));
                continue;
            }
        };
        span = value.span.clone();
        open |= matches!(&value.value, Value::Text(text) if text.open);
        *slot = Some(words_of(&value.value));
    }
    if options.iter().any(|(key, _)| key.value == words.ours) {
        return options;
    }
    let address = match socket {
        Some(path) => format!("unix:{path}"),
        None => {
            let host = host.unwrap_or_else(|| "127.0.0.1".into());
            // By name it is looked up; the server's side takes numbers.
            let host = if host == "localhost" {
                "127.0.0.1".into()
            } else {
                host
            };
            let port = port.unwrap_or_else(|| PORT.to_string());
            match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            }
        }
    };
    let text = Text {
        text: address,
        loose: true,
        open,
    };
    let text = At::new(Value::Text(text), span.clone());
    let value = match words.list {
        true => At::new(Value::List(vec![text]), span.clone()),
        false => text,
    };
    options.push((At::new(words.ours.into(), span), value));
    options
}

fn words_of(value: &Value) -> String {
    match value {
        Value::Text(text) => text.text.clone(),
        Value::Integer(number) => number.to_string(),
        _ => String::new(),
    }
}
