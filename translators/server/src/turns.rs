//! Calls that change the same place are done one after the other.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// A name in a directory, an attribute of an object, or the end of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) object: Vec<u8>,
    pub(crate) name: Vec<u8>,
}

type Turn = Arc<tokio::sync::Mutex<()>>;

/// Who is at which place.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<Place, Turn>>);

/// Somebody at his places; leaves when dropped.
pub(crate) struct Taken<'a> {
    turns: &'a Turns,
    held: Vec<(Place, Option<OwnedMutexGuard<()>>)>,
}

impl Turns {
    /// Waits until nobody else is at any of these.
    pub(crate) async fn take(&self, mut places: Vec<Place>) -> Taken<'_> {
        // In one order for all, so that no two wait for each other.
        places.sort_unstable();
        places.dedup();
        let mut taken = Taken {
            turns: self,
            held: Vec::with_capacity(places.len()),
        };
        for place in places {
            let turn = self.0.lock().entry(place.clone()).or_default().clone();
            taken.held.push((place, None));
            let guard = turn.lock_owned().await;
            if let Some((_, held)) = taken.held.last_mut() {
                *held = Some(guard);
            }
        }
        taken
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut turns = self.turns.0.lock();
        for (place, guard) in self.held.drain(..) {
            drop(guard);
            // Nobody comes to it while the table is locked.
            if turns
                .get(&place)
                .is_some_and(|turn| Arc::strong_count(turn) == 1)
            {
                turns.remove(&place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use hermitfs_api::poll_once;

    use super::*;

    fn place(name: &str) -> Place {
        Place {
            object: b"dir".to_vec(),
            name: name.into(),
        }
    }

    #[test]
    fn one_at_a_time_at_each_place_and_nothing_stays_behind() {
        let turns = Turns::default();
        let mut first = pin!(turns.take(vec![place("b"), place("a"), place("a")]));
        let first = match poll_once(first.as_mut()) {
            std::task::Poll::Ready(taken) => taken,
            std::task::Poll::Pending => panic!("nobody was there"),
        };
        {
            let mut other = pin!(turns.take(vec![place("c")]));
            assert!(poll_once(other.as_mut()).is_ready());
            let mut second = pin!(turns.take(vec![place("a"), place("c")]));
            assert!(poll_once(second.as_mut()).is_pending());
            drop(first);
            assert!(poll_once(second.as_mut()).is_ready());
        }
        assert!(turns.0.lock().is_empty());
    }

    #[test]
    fn who_gave_up_waiting_leaves_nothing_behind() {
        let turns = Turns::default();
        let mut first = Box::pin(turns.take(vec![place("a")]));
        let std::task::Poll::Ready(first) = poll_once(first.as_mut()) else {
            panic!("nobody was there");
        };
        let mut second = Box::pin(turns.take(vec![place("a"), place("b")]));
        assert!(poll_once(second.as_mut()).is_pending());
        drop(second);
        drop(first);
        assert!(turns.0.lock().is_empty());
    }
}
