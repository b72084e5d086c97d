// Copyright the kata authors. SPDX-License-Identifier: Apache-2.0

//! systemd as the owner of the control groups: it makes a transient scope with our process in it and hands the group over to us
//! (`Delegate`). It is asked over the system bus (org.freedesktop.systemd1), as runc asks it.

use std::path::Path;
use std::time::{Duration, Instant};

use base::{Error, Kind, Result};
use rustbus::connection::{Error as BusError, Timeout, ll_conn::DuplexConn};
use rustbus::message_builder::{MarshalledMessage, MessageBuilder, MessageType};
use rustbus::wire::ObjectPath;

/// Exists where systemd is PID 1: sd_booted(3).
const BOOTED: &str = "/run/systemd/system";
/// How long systemd may take for one thing.
const PATIENCE: Duration = Duration::from_secs(30);
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// Of the bus itself.
const BUS: &str = "org.freedesktop.DBus";
/// The error for a unit that it does not know, or no longer.
const UNKNOWN: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// A scope to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The slice that it stands in, with its suffix.
    pub slice: String,
    /// Of the unit, with its suffix.
    pub name: String,
}

rustbus::dbus_variant_sig!(Value, Text => String; Flag => bool; Numbers => Vec<u32>);
type Properties = Vec<(String, Value)>;
/// Units to be made along with one; there are none.
type Others = Vec<(String, Properties)>;

/// systemd runs here.
pub fn booted() -> bool {
    Path::new(BOOTED).is_dir()
}

/// Makes `scope` with process `pid` in it. Returns once it is there. Errors: `Exists` when a unit of that name runs.
pub fn start(scope: &Scope, pid: u32) -> Result<()> {
    let what = || format!("have systemd make {}", scope.name);
    let mut bus = Bus::open().attempt_bus(what)?;
    bus.watch_jobs().attempt_bus(what)?;
    let flag = |name: &str| (name.to_owned(), Value::Flag(true));
    let properties: Properties = vec![
        (
            "Description".to_owned(),
            Value::Text(format!("kata sandbox {}", scope.name)),
        ),
        ("Slice".to_owned(), Value::Text(scope.slice.clone())),
        ("PIDs".to_owned(), Value::Numbers(vec![pid])),
        flag("Delegate"),
        flag("CPUAccounting"),
        flag("MemoryAccounting"),
        flag("IOAccounting"),
        flag("TasksAccounting"),
        ("DefaultDependencies".to_owned(), Value::Flag(false)),
    ];
    let mut call = manager("StartTransientUnit");
    let built = call
        .body
        .push_param4(scope.name.as_str(), "replace", properties, Others::new());
    built.map_err(|e| Error::new(Kind::Bug, what()).because(format!("{e:?}")))?;
    let done = bus.call(&mut call).and_then(|reply| bus.finish(&reply));
    done.attempt_bus(what)
}

/// Ends the scope `name`, in which nobody is any more; one that systemd does not know is fine.
pub fn stop(name: &str) -> Result<()> {
    let what = || format!("have systemd remove {name}");
    let mut bus = Bus::open().attempt_bus(what)?;
    bus.watch_jobs().attempt_bus(what)?;
    let mut call = manager("StopUnit");
    let built = call.body.push_param2(name, "replace");
    built.map_err(|e| Error::new(Kind::Bug, what()).because(format!("{e:?}")))?;
    match bus.call(&mut call).and_then(|reply| bus.finish(&reply)) {
        Err(Failure::Refused { name, .. }) if name == UNKNOWN => Ok(()),
        other => other.attempt_bus(what),
    }
}

fn manager(method: &str) -> MarshalledMessage {
    let call = MessageBuilder::new().call(method).with_interface(MANAGER);
    call.on("/org/freedesktop/systemd1")
        .at("org.freedesktop.systemd1")
        .build()
}

/// Why something could not be had of systemd.
#[derive(Debug)]
enum Failure {
    /// The bus does not work.
    Bus(BusError),
    /// It said no: the error's name and text.
    Refused { name: String, text: String },
    /// The job ended otherwise than done.
    Job(String),
}

impl From<BusError> for Failure {
    fn from(error: BusError) -> Failure {
        Failure::Bus(error)
    }
}

trait AttemptBus<T> {
    /// With what was tried.
    fn attempt_bus(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> AttemptBus<T> for std::result::Result<T, Failure> {
    fn attempt_bus(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|failure| {
            let (kind, why) = match failure {
                Failure::Bus(BusError::TimedOut) => (
                    Kind::Timeout,
                    format!("it has not answered for {} s", PATIENCE.as_secs()),
                ),
                Failure::Bus(e) => {
                    let advice = "is dbus running? (an engine with cgroupfs as its driver does without)";
                    (Kind::Io, format!("ask over the system bus: {e}: {advice}"))
                }
                Failure::Refused { name, text } if name.ends_with(".UnitExists") => (Kind::Exists, text),
                Failure::Refused { name, text } => (Kind::Io, format!("{text} ({name})")),
                Failure::Job(result) => (Kind::Io, format!("its job ended as {result:?}")),
            };
            Error::new(kind, what()).because(why)
        })
    }
}

/// The system bus.
struct Bus {
    conn: DuplexConn,
    /// When our patience ends.
    limit: Instant,
    /// Ends of jobs that came before we asked: the job's path and its result.
    ended: Vec<(String, String)>,
}

impl Bus {
    fn open() -> std::result::Result<Bus, Failure> {
        let mut bus = Bus {
            conn: DuplexConn::connect_to_bus(rustbus::get_system_bus_path()?, false)?,
            limit: Instant::now() + PATIENCE,
            ended: Vec::new(),
        };
        let mut hello = of_the_bus("Hello");
        bus.call(&mut hello)?;
        Ok(bus)
    }

    /// From here on no end of a job is missed.
    fn watch_jobs(&mut self) -> std::result::Result<(), Failure> {
        let mut filter = of_the_bus("AddMatch");
        let rule = format!("type='signal',interface='{MANAGER}',member='JobRemoved'");
        filter.body.push_param(rule).map_err(BusError::from)?;
        self.call(&mut filter)?;
        self.call(&mut manager("Subscribe")).map(drop)
    }

    /// Sends, and waits for the answer.
    fn call(&mut self, message: &mut MarshalledMessage) -> std::result::Result<MarshalledMessage, Failure> {
        let sent = self.conn.send.send_message(message)?.write_all();
        let serial = sent.map_err(|(context, error)| {
            // The connection is given up: nothing follows what was half sent.
            context.force_finish();
            error
        })?;
        loop {
            let answer = self.next()?;
            if answer.dynheader.response_serial != Some(serial) {
                continue;
            }
            return match answer.typ {
                MessageType::Error => Err(Failure::Refused {
                    text: answer.body.parser().get::<String>().unwrap_or_default(),
                    name: answer.dynheader.error_name.unwrap_or_default(),
                }),
                _ => Ok(answer),
            };
        }
    }

    /// Waits for the end of the job that `reply` names.
    fn finish(&mut self, reply: &MarshalledMessage) -> std::result::Result<(), Failure> {
        let job = reply.body.parser().get::<ObjectPath<&str>>().map_err(BusError::from)?;
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(path, _)| path == job.as_ref()) {
                return match result.as_str() {
                    "done" => Ok(()),
                    other => Err(Failure::Job(other.to_owned())),
                };
            }
            self.next()?;
        }
    }

    /// The next message; ends of jobs are noted.
    fn next(&mut self) -> std::result::Result<MarshalledMessage, Failure> {
        let left = self.limit.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(BusError::TimedOut.into());
        }
        let message = self.conn.recv.get_next_message(Timeout::Duration(left))?;
        if message.typ == MessageType::Signal && message.dynheader.member.as_deref() == Some("JobRemoved") {
            let mut body = message.body.parser();
            let removed = body.get4::<u32, ObjectPath<&str>, &str, &str>();
            let (_, job, _, result) = removed.map_err(BusError::from)?;
            self.ended.push((job.as_ref().to_owned(), result.to_owned()));
        }
        Ok(message)
    }
}

fn of_the_bus(method: &str) -> MarshalledMessage {
    let call = MessageBuilder::new().call(method).with_interface(BUS);
    call.on("/org/freedesktop/DBus").at(BUS).build()
}
