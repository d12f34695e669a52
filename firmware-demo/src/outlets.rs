//! Where results go beside the screen: standard output, the log, the broker.

use std::time::Instant;

use anyhow::{Context, Result};
use pinhole::camera::{Answer, Change};

use crate::config::Config;
use crate::log::{LogStatus, LogWriter, Top, What};
#[cfg(feature = "mqtt")]
use crate::mqtt::{Counters as Published, Publisher};
use crate::totals::Totals;

/// The log, the broker, and standard output and error.
pub(crate) struct Outlets {
    log: Option<LogWriter>,
    /// What became of the log once it is closed.
    closed: Option<LogStatus>,
    #[cfg(feature = "mqtt")]
    start: Instant,
    /// Records asked for.
    records: u64,
    /// The last state of the log that was told.
    log_failing: Option<String>,
    #[cfg(feature = "mqtt")]
    mqtt: Option<Publisher>,
    /// What became of the events once the publisher has ended.
    #[cfg(feature = "mqtt")]
    published: Option<Published>,
    #[cfg(feature = "mqtt")]
    broker: Option<String>,
}

impl Outlets {
    pub(crate) fn start(config: &Config, start: Instant) -> Result<Self> {
        let log = (config.log.as_ref())
            .map(|log| LogWriter::start(log, start))
            .transpose()
            .context("cannot start the log's thread")?;
        Ok(Self {
            log,
            #[cfg(feature = "mqtt")]
            start,
            closed: None,
            records: 0,
            log_failing: None,
            #[cfg(feature = "mqtt")]
            mqtt: (config.mqtt.as_ref())
                .map(Publisher::start)
                .transpose()
                .context("mqtt")?,
            #[cfg(feature = "mqtt")]
            published: None,
            #[cfg(feature = "mqtt")]
            broker: None,
        })
    }

    /// A line for whoever reads the journal.
    pub(crate) fn say(&self, text: &str) {
        eprintln!("{text}");
    }

    pub(crate) fn record(&mut self, what: What) {
        if let Some(log) = &self.log {
            self.records += 1;
            log.write(what);
        }
    }

    /// An error that the appliance goes on after.
    pub(crate) fn error(&mut self, what: &str, text: &str) {
        eprintln!("{what}: {text}");
        self.record(What::Error {
            what: what.into(),
            text: text.into(),
        });
    }

    /// The state changed; `frame` is the number of the frame since the start.
    pub(crate) fn event(&mut self, answer: &Answer, change: &Change, frame: u64) {
        let best = answer.tracked.ranking.first();
        let probability = best.map_or(0.0, |best| best.probability);
        println!("{} ({:.0} %)", change.to.name(), 100.0 * probability);
        let event = What::Event {
            from: change.from.as_ref().map(|seen| seen.name().to_owned()),
            to: change.to.name().to_owned(),
            top: (answer.tracked.ranking.iter().take(3))
                .map(|class| Top {
                    class: class.name.clone(),
                    probability: class.probability,
                    similarity: class.similarity,
                })
                .collect(),
            frame,
        };
        #[cfg(feature = "mqtt")]
        if let Some(mqtt) = &self.mqtt {
            mqtt.publish(&crate::log::Record::now(event.clone(), self.start));
        }
        self.record(event);
    }

    /// Tells of changes for the better or worse since the last look.
    pub(crate) fn look(&mut self) {
        let failing = self.log.as_ref().and_then(|log| failing(&log.status()));
        if failing != self.log_failing {
            match &failing {
                Some(reason) => self.say(reason),
                None => self.say("the log: it works again"),
            }
            self.log_failing = failing;
        }
        #[cfg(feature = "mqtt")]
        if let Some(mqtt) = &self.mqtt {
            let counters = mqtt.counters();
            let broker = match counters.connected {
                true => None,
                false => counters.last_error,
            };
            if broker != self.broker {
                match &broker {
                    Some(reason) => self.say(reason),
                    None => self.say("mqtt: connected"),
                }
                self.broker = broker;
            }
        }
    }

    /// What the screen should tell.
    pub(crate) fn notice(&self) -> Option<String> {
        self.log_failing.clone()
    }

    /// Writes and sends what waits, as far as that can be done in some seconds.
    pub(crate) fn stop(&mut self) {
        #[cfg(feature = "mqtt")]
        if let Some(mqtt) = self.mqtt.take() {
            self.published = Some(mqtt.stop());
        }
        self.closed = self.log.take().map(LogWriter::stop);
    }

    /// Puts in what became of records and events.
    pub(crate) fn count(&self, totals: &mut Totals) {
        totals.records = self.records;
        let open = self.log.as_ref().map(LogWriter::status);
        if let Some(status) = open.or_else(|| self.closed.clone()) {
            (totals.records_written, totals.records_lost) = (status.written, status.lost);
        }
        #[cfg(feature = "mqtt")]
        if let Some(counters) =
            (self.mqtt.as_ref().map(Publisher::counters)).or(self.published.clone())
        {
            totals.published = counters.queued;
            (totals.published_sent, totals.published_lost) = (counters.sent, counters.lost);
            totals.published_waiting = counters.waiting;
        }
    }
}

fn failing(status: &LogStatus) -> Option<String> {
    status.last_error.clone().filter(|_| status.failing)
}
