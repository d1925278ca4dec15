//! The daemon's own door: the commands' calls, answered.

use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use hermitfs_api::{Location, NameBuf};
use hermitfs_proto::admin::v1 as proto;
use hermitfs_proto::admin::v1::admin_server::{Admin, AdminServer};
use hermitfs_proto::admin::v1::{abort_reply, stop_reply};
use hermitfs_replicate::{Rate, Reached, Replicate, Verified};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream, WatchStream};
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use super::asker;
use super::bricks::Served;
use super::cutover::Asked;
use super::serve::Daemon;
use super::status::Asked as Answering;
use super::{cutover, errors, handover};
use crate::past::{self, End, How};

type Answer<T> = Result<Response<T>, Status>;
type Flow<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What can be cut over, or given up.
#[derive(Clone)]
pub(crate) enum Ending {
    Mounted(Arc<Daemon>),
    Served(Arc<Served>),
}

impl Ending {
    fn remember(&self, how: How, by: String) {
        let (record, slot) = match self {
            Ending::Mounted(daemon) => (&daemon.record, &daemon.slot),
            Ending::Served(served) => (&served.record, &served.slot),
        };
        End::of(record, how, by).remember(slot.state_dir());
    }
}

/// Who asks.
fn caller<T>(request: &Request<T>) -> String {
    let peer = request.extensions().get::<UdsConnectInfo>();
    past::person(
        peer.and_then(|info| info.peer_cred)
            .and_then(|peer| peer.pid()),
    )
}

/// How long it may take until everybody has the answer that he waits for.
pub(crate) const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// The door while it is open. Who is answered when this is dropped is left without.
pub(crate) struct Answers {
    closing: watch::Sender<bool>,
    served: JoinHandle<()>,
}

impl Answers {
    /// Opens it, on the runtime in which this is called.
    pub(crate) fn begin(
        asked: Arc<dyn Answering>,
        ending: Ending,
        listener: UnixListener,
    ) -> Answers {
        let closing = watch::Sender::new(false);
        let closed = Closed(closing.subscribe());
        let served = tokio::spawn(serve(asked, ending, listener, closed));
        Answers { closing, served }
    }

    /// Lets nobody in any more, and ends what would go on for as long as we live. Then waits until
    /// all others have their answers and have gone, at most this long.
    pub(crate) async fn end(&mut self, at_most: Duration) {
        self.closing.send_replace(true);
        if !self.served.is_finished() {
            let _ = tokio::time::timeout(at_most, &mut self.served).await;
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// Tells when the door is closed.
#[derive(Clone)]
struct Closed(watch::Receiver<bool>);

impl Closed {
    async fn wait(mut self) {
        // Who opened it may be gone: then it is closed as well.
        let _ = self.0.wait_for(|closed| *closed).await;
    }
}

async fn serve(asked: Arc<dyn Answering>, ending: Ending, listener: UnixListener, closed: Closed) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("nobody can be answered: {error}"),
    };
    let door = Door {
        asked,
        ending,
        closed: closed.clone(),
    };
    let served = Server::builder()
        .add_service(AdminServer::with_interceptor(door, only_root))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), closed.wait())
        .await;
    if let Err(error) = served {
        tracing::error!("the admin door is shut: {error}");
    }
}

/// The socket is in a directory that only root can enter; whoever came by it is looked at all
/// the same.
fn only_root(request: Request<()>) -> Result<Request<()>, Status> {
    let peer = request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred);
    match peer {
        Some(peer) if peer.uid() == 0 => Ok(request),
        _ => Err(Status::permission_denied("only root may ask")),
    }
}

struct Door {
    asked: Arc<dyn Answering>,
    ending: Ending,
    closed: Closed,
}

impl Door {
    fn pair(&self) -> Result<Arc<Replicate>, Status> {
        let none = || Status::failed_precondition("there is no pair here: nothing is to be healed");
        self.asked.pair().ok_or_else(none)
    }

    /// What goes on for as long as we do.
    fn until_closed<T: Send + 'static>(
        &self,
        stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Response<Flow<T>> {
        let closed = Box::pin(self.closed.clone().wait());
        Response::new(Box::pin(stream.take_until(closed)))
    }
}

/// Runs what waits for disks away from the thread that answers.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    let (sender, done) = oneshot::channel();
    let spawned = std::thread::Builder::new()
        .name("command".into())
        .spawn(move || drop(sender.send(work())));
    spawned.map_err(no_thread)?;
    done.await
        .map_err(|_| Status::internal("a bug stopped this; the daemon's log has it"))
}

fn no_thread(error: std::io::Error) -> Status {
    Status::resource_exhausted(super::no_thread(&error))
}

#[tonic::async_trait]
impl Admin for Door {
    type StatusStream = Flow<proto::StatusReply>;

    async fn status(&self, request: Request<proto::StatusRequest>) -> Answer<Self::StatusStream> {
        if request.into_inner().follow {
            let changes = WatchStream::new(self.asked.changes());
            return Ok(self.until_closed(changes.map(Ok)));
        }
        let asked = self.asked.clone();
        let now = apart(move || asked.now()).await?;
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(now)))))
    }

    type HealStream = Flow<proto::HealProgress>;

    async fn heal(&self, request: Request<proto::HealRequest>) -> Answer<Self::HealStream> {
        let pair = self.pair()?;
        let request = request.into_inner();
        let location = location(&request.path)?;
        let (sender, receiver) = mpsc::channel(1);
        // A thread of its own: the caller may wait for hours.
        let spawned = std::thread::Builder::new()
            .name("heal".into())
            .spawn(move || {
                heal(&pair, &location, &request, &sender);
            });
        spawned.map_err(no_thread)?;
        Ok(self.until_closed(ReceiverStream::new(receiver)))
    }

    async fn errors(&self, _: Request<proto::ErrorsRequest>) -> Answer<proto::ErrorsReply> {
        let pair = self.pair()?;
        let (errors, losses) = apart(move || (pair.errors(), pair.losses())).await?;
        Ok(Response::new(errors::reply(errors, losses)))
    }

    async fn waive(&self, request: Request<proto::WaiveRequest>) -> Answer<proto::WaiveReply> {
        let (pair, request) = (self.pair()?, request.into_inner());
        let waived = apart(move || errors::waive(&pair, &request)).await?;
        waived.map(Response::new).map_err(Status::invalid_argument)
    }

    async fn throttle(
        &self,
        request: Request<proto::ThrottleRequest>,
    ) -> Answer<proto::ThrottleReply> {
        let pair = self.pair()?;
        if let Some(limit) = request.into_inner().limit {
            tracing::info!(
                bytes_a_second = limit,
                "limited by an administrator (0: not)"
            );
            pair.set_limit(Rate::new(limit));
        }
        let limit = pair.limit().map(Rate::bytes_a_second);
        Ok(Response::new(proto::ThrottleReply { limit }))
    }

    type CutoverStream = Flow<proto::CutoverReply>;

    async fn cutover(
        &self,
        request: Request<proto::CutoverRequest>,
    ) -> Answer<Self::CutoverStream> {
        let by = caller(&request);
        let peer = request.extensions().get::<UdsConnectInfo>();
        let peer = peer.and_then(|info| info.peer_cred);
        let pid = peer.and_then(|peer| peer.pid()).unwrap_or(0);
        let (pid, uid) = (pid.unsigned_abs(), peer.map_or(0, |peer| peer.uid()));
        let (ending, request) = (self.ending.clone(), request.into_inner());
        let limit = Duration::try_from_secs_f64(request.timeout_s)
            .map_err(|_| Status::invalid_argument("no such time limit"))?;
        let (sender, receiver) = mpsc::channel(16);
        let work = move || {
            let (to, inside) = (request.to.as_deref(), request.stay_inside);
            let asked = &Asked {
                answers: Some(sender.clone()),
                pid,
                user: &asker::user(pid, uid),
            };
            let outcome = cutover::told(match &ending {
                Ending::Mounted(daemon) => cutover::cut_over(daemon, asked, limit, to, inside),
                Ending::Served(served) => handover::end_served(served, asked, limit, to, inside),
            });
            if let proto::cutover_reply::Outcome::Done(_) = &outcome {
                ending.remember(How::CutOver, by);
            }
            // Nobody may be there any more to hear it.
            let _ = sender.blocking_send(Ok(proto::CutoverReply {
                outcome: Some(outcome),
            }));
        };
        // A thread of its own: the caller may wait for hours.
        let spawned = std::thread::Builder::new()
            .name("cutover".into())
            .spawn(work);
        spawned.map_err(no_thread)?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn abort(&self, request: Request<proto::AbortRequest>) -> Answer<proto::AbortReply> {
        let by = caller(&request);
        let ending = self.ending.clone();
        let outcome = apart(move || match &ending {
            Ending::Mounted(daemon) => cutover::abort(daemon),
            Ending::Served(served) => handover::give_up_served(served),
        });
        let outcome = match outcome.await? {
            Ok(done) => {
                self.ending.remember(How::GivenUp, by);
                abort_reply::Outcome::Done(done)
            }
            Err(refused) => abort_reply::Outcome::Refused(refused),
        };
        Ok(Response::new(proto::AbortReply {
            outcome: Some(outcome),
        }))
    }

    async fn stop(&self, request: Request<proto::StopRequest>) -> Answer<proto::StopReply> {
        let by = caller(&request);
        let (ending, anyway) = (self.ending.clone(), request.into_inner().anyway);
        let outcome = apart(move || match &ending {
            Ending::Mounted(daemon) => cutover::stop(daemon, anyway),
            Ending::Served(served) => handover::stop_serving(served, anyway),
        });
        let outcome = match outcome.await? {
            Ok(done) => {
                tracing::info!(by, "asked to end");
                stop_reply::Outcome::Done(done)
            }
            Err(refused) => stop_reply::Outcome::Refused(refused),
        };
        Ok(Response::new(proto::StopReply {
            outcome: Some(outcome),
        }))
    }
}

fn heal(
    pair: &Replicate,
    location: &Location,
    request: &proto::HealRequest,
    sender: &mpsc::Sender<Result<proto::HealProgress, Status>>,
) {
    let goal = match pair.heal(location, request.full) {
        Ok(goal) => goal,
        Err(error) => {
            let path = location.display();
            let _ = sender.blocking_send(Err(Status::not_found(format!("{path}: {error}"))));
            return;
        }
    };
    loop {
        let (reached, now) = (pair.reached(&goal), pair.status());
        let (reached, errors) = match reached {
            Reached::No => (proto::heal_progress::Reached::NotYet, now.errors),
            Reached::Yes => (proto::heal_progress::Reached::Done, now.errors),
            Reached::Failed(errors) => (proto::heal_progress::Reached::Failed, errors),
        };
        let mut found = match reached {
            proto::heal_progress::Reached::NotYet => Verified::default(),
            _ => pair.verified(&goal),
        };
        let differences = std::mem::take(&mut found.differences).into_iter();
        let differences = differences.map(|its| proto::Difference {
            path: its.path,
            sink: its.sink,
            what: its.what,
        });
        let progress = proto::HealProgress {
            compared: found.objects,
            compared_bytes: found.bytes,
            differed: found.different,
            differences: differences.collect(),
            reached: reached.into(),
            errors,
            pending: now.pending,
            reason: now.reason,
        };
        let ended = reached != proto::heal_progress::Reached::NotYet || !request.wait;
        if sender.blocking_send(Ok(progress)).is_err() || ended {
            return;
        }
        pair.wait_change(Duration::from_millis(500));
    }
}

/// A path from the root of the volume, as its names.
fn location(path: &[u8]) -> Result<Location, Status> {
    let names = path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(NameBuf::new)
        .collect::<Result<Vec<NameBuf>, _>>();
    let wrong =
        |error| Status::invalid_argument(format!("{}: {error}", String::from_utf8_lossy(path)));
    Ok(Location {
        path: names.map_err(wrong)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_names_and_does_not_lead_out() {
        assert_eq!(location(b"/").unwrap().path.len(), 0);
        assert_eq!(location(b"/a//b/./c/").unwrap().display(), "/a/b/c");
        assert!(location(b"/a/../b").is_err());
    }

    /// A daemon that takes its time to tell how far it is.
    struct Slow(Arc<Served>, Duration);

    impl Answering for Slow {
        fn pair(&self) -> Option<Arc<Replicate>> {
            None
        }

        fn now(&self) -> proto::StatusReply {
            std::thread::sleep(self.1);
            proto::StatusReply {
                state: "slow".into(),
                ..proto::StatusReply::default()
            }
        }

        fn told(&self) -> &watch::Sender<proto::StatusReply> {
            self.0.told()
        }
    }

    type Client = proto::admin_client::AdminClient<tonic::transport::Channel>;

    async fn client(path: &std::path::Path) -> Client {
        let mut stream = Some(tokio::net::UnixStream::connect(path).await.unwrap());
        let connector = tower::service_fn(move |_| {
            let stream = stream.take().map(hyper_util::rt::TokioIo::new);
            async move { stream.ok_or_else(|| std::io::Error::other("once")) }
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://test");
        let channel = endpoint.connect_with_connector(connector).await;
        Client::new(channel.unwrap())
    }

    /// A door, two who have come through it, and what the first was told by the time at which it was shut.
    fn told(
        takes: Duration,
        at_most: Duration,
    ) -> (Result<Option<proto::StatusReply>, Status>, Duration) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let served = Served::nothing(dir.path());
        let slow = Arc::new(Slow(served.clone(), takes));
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(async {
            let mut answers = Answers::begin(slow, Ending::Served(served), listener);
            let mut follower = client(&path).await;
            let follow = follower.status(proto::StatusRequest { follow: true }).await;
            let mut changes = follow.unwrap().into_inner();
            assert!(changes.message().await.unwrap().is_some());
            let mut asker = client(&path).await;
            let asked = tokio::spawn(async move {
                let asked = asker.status(proto::StatusRequest { follow: false }).await;
                asked?.into_inner().message().await
            });
            // He has asked, and waits.
            tokio::time::sleep(takes / 4).await;
            let begun = std::time::Instant::now();
            answers.end(at_most).await;
            let took = begun.elapsed();
            drop(answers);
            assert!(matches!(changes.message().await, Ok(None) | Err(_)));
            assert!(
                tokio::net::UnixStream::connect(&path).await.is_err(),
                "shut"
            );
            let asked = tokio::time::timeout(at_most, asked).await;
            let nothing = || Err(Status::deadline_exceeded("no answer"));
            (
                asked.map_or_else(|_| nothing(), |asked| asked.unwrap()),
                took,
            )
        })
    }

    #[test]
    fn who_has_asked_is_answered_before_the_door_is_shut_and_who_listens_hears_the_end() {
        let (answer, took) = told(Duration::from_secs(2), Duration::from_secs(60));
        assert_eq!(answer.unwrap().unwrap().state, "slow");
        assert!(took < Duration::from_secs(30), "{took:?}");
    }

    #[test]
    fn who_is_not_answered_in_time_is_not_waited_for() {
        let (_, took) = told(Duration::from_secs(8), Duration::from_millis(300));
        assert!(took < Duration::from_secs(6), "{took:?}");
    }
}
