//! The survey at work: pages of the store, and orders that follow from what they show.

use synod_storage::{ReadId, ReadResult, Scan};
use synod_txn::{Body, Class, Now, Request, SYSTEM_SHARD, TxnRequest};
use tracing::info;

use super::turn::{Effects, Node};
use crate::shards::survey::Wish;
use crate::shards::{Order, Step};

/// The pause between two pages of a walk.
const PAGE_EVERY_US: u64 = 100_000;

impl Node {
    /// Counts a request for a shard that is led here.
    pub(super) fn count_request(&mut self, request: &Request) {
        match &request.body {
            Body::Command(command) => {
                let mut first = None;
                command.for_each_key(|key| first = first.or(Some(key)));
                self.survey.count(request.shard, command.class(), first);
            }
            Body::Txn(TxnRequest::Read { keys }) => {
                self.survey.count(request.shard, Class::Read, keys.first());
            }
            Body::Txn(_) => self.survey.count(request.shard, Class::Write, None),
        }
    }

    /// Whether a read of the store was the survey's; then it is dealt with.
    pub(super) fn take_surveyed(&mut self, now: Now, id: ReadId, result: &mut ReadResult) -> bool {
        if self.survey_read != Some(id) {
            return false;
        }
        self.survey_read = None;
        match std::mem::replace(result, ReadResult::Failed) {
            ReadResult::Page(page) => self.survey.page(now.monotonic.0, page),
            ReadResult::Found { .. }
            | ReadResult::Absent { .. }
            | ReadResult::Newest(_)
            | ReadResult::Damaged(_)
            | ReadResult::Failed => self.survey.failed(now.monotonic.0),
        }
        true
    }

    /// Walks on, and gives the orders that are wished for.
    pub(super) fn tick_survey(&mut self, now: Now, effects: &mut Effects) {
        let now_us = now.monotonic.0;
        if now_us < self.next_page_us {
            return;
        }
        self.next_page_us = now_us + PAGE_EVERY_US;
        let participant = &self.participant;
        let led = participant.shards().filter(|descriptor| {
            let shard = descriptor.shard;
            shard != SYSTEM_SHARD && participant.leads(shard) && participant.is_described(shard)
        });
        self.survey.lead(led);
        self.survey.tick(now_us);
        if self.survey_read.is_none()
            && let Some(request) = self.survey.next_page(now_us)
        {
            match self.store.scan(request) {
                Scan::Ready(page) => self.survey.page(now_us, page),
                Scan::Pending(id) => self.survey_read = Some(id),
            }
        }
        if let Some(Wish {
            shard,
            epoch,
            at,
            reason,
        }) = self.survey.wish(now_us)
        {
            info!(%shard, at = %at.escape_ascii(), "the shard is to be split: {reason}");
            let order = Order {
                shard,
                epoch,
                authority: None,
                step: Step::Split { at: at.to_vec() },
            };
            // What becomes of it is seen at the shard; a refusal is wished again later.
            self.order(now, order, effects);
        }
    }
}
