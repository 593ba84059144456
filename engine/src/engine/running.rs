//! A task of the engine's and how to end it. What can go wrong: it does not end when it is
//! asked to. Then it is cut off, which loses nothing: everything that it does may also be
//! interrupted by the death of the process.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::streaming::DRAIN;
use crate::sink::status::Status;

/// A task of the engine's.
pub(super) struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Where it says that it waits for room, if it ever does.
    sink: Option<Status>,
}

impl Running {
    pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(
        run: impl FnOnce(CancellationToken) -> F,
    ) -> Running {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(stop.clone()));
        Running { stop, task, sink: None }
    }

    /// Of a task that publishes, and tells so here.
    pub(super) fn publishing(self, sink: &Status) -> Running {
        Running { sink: Some(sink.clone()), ..self }
    }

    /// Asks it to end, and ends it if it does not, or only waits for room. Returns when it is
    /// gone, with its connections and all it holds. A step that was cut off may still be
    /// done, as one whose reply is lost: whoever comes next reads what is there, and its
    /// token keeps out what comes later.
    pub(super) async fn end(mut self) {
        self.stop.cancel();
        let cut = tokio::select! {
            biased;
            _ = &mut self.task => false,
            () = waits_for_room(self.sink.as_ref()) => true,
            () = tokio::time::sleep(DRAIN) => {
                tracing::warn!(
                    "a task did not end in {DRAIN:?} and was cut off; nothing is lost by that"
                );
                true
            }
        };
        if cut {
            self.task.abort();
            let _ = self.task.await;
        }
        if let Some(sink) = self.sink {
            sink.update(|figures| figures.paused = None);
        }
    }
}

/// Returns once a publisher waits for room in Redis.
async fn waits_for_room(sink: Option<&Status>) {
    let Some(sink) = sink else { return std::future::pending().await };
    loop {
        // Before the look: what is said in between is not missed.
        let changed = sink.changed();
        if sink.get().paused.is_some() {
            return;
        }
        changed.await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_cut_off_is_gone_when_its_end_is_told() {
        let (held, sink) = (Arc::new(()), Status::default());
        let holds = Arc::clone(&held);
        let running = Running::spawn(|_| async move {
            let _holds = holds;
            std::future::pending::<()>().await;
        });
        sink.pause(Some("no room".to_owned()));
        tokio::task::yield_now().await;
        running.publishing(&sink).end().await;
        assert_eq!(Arc::strong_count(&held), 1, "it still holds what it had");
        assert_eq!(sink.get().paused, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_comes_to_wait_for_room_is_cut_off_then() {
        let (sink, begun) = (Status::default(), tokio::time::Instant::now());
        let (says, never) = (sink.clone(), std::future::pending::<()>());
        let running = Running::spawn(|stop| async move {
            stop.cancelled().await;
            says.pause(Some("no room".to_owned()));
            never.await;
        });
        running.publishing(&sink).end().await;
        assert_eq!(begun.elapsed(), std::time::Duration::ZERO, "nobody has slept");
    }
}
