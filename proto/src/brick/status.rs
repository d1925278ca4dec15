//! An operation's error as a status of gRPC, and back.

use hermitfs_api::{Errno, Error};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

const ERRNO: &str = "hermitfs-errno";
const SESSION: &str = "hermitfs-session";

/// What a status says.
#[derive(Debug)]
pub enum Fault {
    /// The operation's own answer.
    Operation(Error),
    /// The server has no such session: nothing was done.
    UnknownSession,
    /// The line's, or the server's door's: what was done is not known.
    Line(Status),
}

/// An operation's error: the number in the metadata, the story as the message.
pub fn status_of(error: &Error) -> Status {
    let story = error.story().map(ToString::to_string);
    let mut status = Status::new(Code::Unknown, story.unwrap_or_default());
    let number = MetadataValue::from(error.errno().raw());
    status.metadata_mut().insert(ERRNO, number);
    status
}

/// That a session is not known; nothing was done.
pub fn unknown_session() -> Status {
    let mut status = Status::new(Code::Unauthenticated, "no such session: say Hello first");
    let unknown = MetadataValue::from_static("unknown");
    status.metadata_mut().insert(SESSION, unknown);
    status
}

/// Tells an operation's error from a fault of the line.
pub fn fault_of(status: Status) -> Fault {
    if let Some(number) = status.metadata().get(ERRNO) {
        let number = number.to_str().ok().and_then(|text| text.parse().ok());
        let errno = number.map_or(Errno::EIO, Errno::from_raw);
        return Fault::Operation(match status.message() {
            "" => Error::new(errno),
            story => Error::with_story(errno, story),
        });
    }
    match status.metadata().contains_key(SESSION) {
        true => Fault::UnknownSession,
        false => Fault::Line(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errors_number_and_story_come_back() {
        let error = Error::with_story(Errno::ENOSPC, "full to the brim");
        match fault_of(status_of(&error)) {
            Fault::Operation(back) => {
                assert_eq!(back.errno(), Errno::ENOSPC);
                assert_eq!(back.to_string(), error.to_string());
            }
            other => panic!("{other:?}"),
        }
        let plain = status_of(&Errno::ENOENT.into());
        assert!(matches!(fault_of(plain), Fault::Operation(e) if e.story().is_none()));
    }

    #[test]
    fn what_has_no_number_is_the_lines() {
        assert!(matches!(fault_of(Status::unavailable("x")), Fault::Line(_)));
        assert!(matches!(fault_of(unknown_session()), Fault::UnknownSession));
    }
}
