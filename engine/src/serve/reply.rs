//! One request's answer: news of the engine in, a body or a stream of events out. Knows JSON by `answer` only.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Bytes;
use futures_core::Stream;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use super::answer::{Frame, Kind, Usage};
use super::choice::{Choice, Delta};
use super::desk::{Counter, Finish, News, Order};
use super::error::{ApiError, Result};
use super::metrics::{Metrics, Outcome};

/// A request at the desk. Dropped before its outputs have ended, it gives them up: so does a client that goes away.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) ticket: u64,
    pub(super) counter: Counter,
    pub(super) metrics: Arc<Metrics>,
    /// Outputs that have not ended.
    pub(super) open: u64,
}

impl Claim {
    fn ended(&mut self, outcome: Outcome) {
        self.open -= 1;
        self.metrics.ended(outcome, 1);
    }

    /// The desk has let go of the request.
    pub(super) fn all_ended(&mut self, outcome: Outcome) {
        self.metrics.ended(outcome, self.open);
        self.open = 0;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.open > 0 {
            self.counter.order(Order::Forget { ticket: self.ticket, index: None });
            self.all_ended(Outcome::Aborted);
        }
    }
}

/// An answer being made.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) frame: Frame,
    pub(super) claim: Claim,
    pub(super) news: UnboundedReceiver<News>,
    pub(super) choices: Vec<Choice>,
    pub(super) usage: Usage,
}

impl Reply {
    /// The desk has taken the request, or not.
    pub(super) async fn accepted(&mut self) -> Result<()> {
        match self.news.recv().await {
            Some(News::Accepted) => Ok(()),
            other => Err(self.failure(other)),
        }
    }

    /// The whole answer, once there is one.
    pub(super) async fn whole(mut self) -> Result<Value> {
        let mut outputs: Vec<Delta> = self.choices.iter().map(|_| Delta::default()).collect();
        while self.claim.open > 0 {
            let news = self.news.recv().await;
            let Some((index, delta)) = self.hear(news)? else { continue };
            let output = &mut outputs[index];
            output.text.push_str(&delta.text);
            output.tokens.extend(delta.tokens);
            output.finish = delta.finish;
        }
        Ok(self.frame.whole(&outputs, self.usage))
    }

    /// What one piece of news makes sure, and of which output.
    fn hear(&mut self, news: Option<News>) -> Result<Option<(usize, Delta)>> {
        let Some(News::Token { index, token, finish }) = news else { return Err(self.failure(news)) };
        let choice = &mut self.choices[index as usize];
        let before = choice.tokens;
        let delta = choice.push(token, finish);
        self.usage.completion += choice.tokens - before;
        let Some(delta) = delta else { return Ok(None) };
        if delta.cut {
            self.claim.counter.order(Order::Forget { ticket: self.claim.ticket, index: Some(index) });
        }
        match delta.finish {
            Some(Finish::Stop) => self.claim.ended(Outcome::Stop),
            Some(Finish::Length) => self.claim.ended(Outcome::Length),
            None => {}
        }
        Ok(Some((index as usize, delta)))
    }

    /// Why there will be no answer.
    fn failure(&mut self, news: Option<News>) -> ApiError {
        let (outcome, error) = match news {
            Some(News::QueueFull { held }) => {
                let mean_s = self.claim.metrics.e2e.mean_s().unwrap_or(1.0);
                (Outcome::Rejected, ApiError::queue_full(held, mean_s.ceil().clamp(1.0, 60.0) as u64))
            }
            Some(News::NeverFits { index }) => {
                let expected = "a prompt that fits into the KV cache together with its output";
                let found = format!("prompt {index}, which does not");
                (Outcome::Invalid, ApiError::too_long("prompt", expected, found))
            }
            Some(News::Cut) => (Outcome::Failed, ApiError::unavailable("the server is shutting down")),
            Some(News::Lost(why)) => {
                (Outcome::Failed, ApiError::lost(format_args!("the engine failed: {why}")))
            }
            Some(News::Accepted | News::Token { .. }) | None => {
                (Outcome::Failed, ApiError::lost("the engine has ended"))
            }
        };
        self.claim.all_ended(outcome);
        error
    }

    /// The answer as server-sent events.
    pub(super) fn events(self) -> Events {
        let mut due = VecDeque::new();
        if self.frame.kind == Kind::Chat {
            due.extend((0..self.choices.len()).map(|index| event(&self.frame.opening(index))));
        }
        Events { reply: self, due, is_over: false }
    }
}

fn event(body: &Value) -> Bytes {
    Bytes::from(format!("data: {body}\n\n"))
}

/// Events as they become due.
#[derive(Debug)]
pub(super) struct Events {
    reply: Reply,
    due: VecDeque<Bytes>,
    is_over: bool,
}

impl Events {
    fn hear(&mut self, news: Option<News>) {
        match self.reply.hear(news) {
            Ok(None) => return,
            Ok(Some((index, delta))) => self.due.push_back(event(&self.reply.frame.chunk(index, &delta))),
            Err(error) => {
                self.due.push_back(event(&error.json()));
                self.is_over = true;
                return;
            }
        }
        if self.reply.claim.open == 0 {
            if self.reply.frame.tells_usage {
                self.due.push_back(event(&self.reply.frame.usage(self.reply.usage)));
            }
            self.due.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
            self.is_over = true;
        }
    }
}

impl Stream for Events {
    type Item = std::result::Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(bytes) = self.due.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            match self.reply.news.poll_recv(context) {
                Poll::Ready(news) => self.hear(news),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
