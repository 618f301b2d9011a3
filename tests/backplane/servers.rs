//! Servers with a backplane, and their clients.

use std::sync::{Arc, Mutex};
use support::{PATIENCE, eventually};
use threadws::backplane::{Backplane, Gap, LinkState, Status};
use threadws::{Connection, Server, ServerHandle};

/// A server whose clients subscribe to the topic of their path, and publish on it.
pub(crate) struct Node {
    pub server: ServerHandle,
    gaps: Arc<Mutex<Vec<Gap>>>,
}

impl Node {
    /// Starts it, and waits until it is connected.
    pub(crate) fn start(backplane: impl Into<Backplane>) -> Self {
        let node = Self::start_alone(backplane);
        node.wait_for(LinkState::Up);
        node
    }

    /// Starts it.
    pub(crate) fn start_alone(backplane: impl Into<Backplane>) -> Self {
        let gaps = Arc::<Mutex<Vec<Gap>>>::default();
        // On a busy machine the confirmation of a subscription can take longer than by default.
        let backplane = backplane.into().confirm_timeout(PATIENCE);
        let server = Server::bind("127.0.0.1:0").expect("a port").backplane(backplane);
        let server = server.on_gap({
            let gaps = Arc::clone(&gaps);
            move |gap| gaps.lock().expect("no panic").push(gap.clone())
        });
        let server = server.spawn(|client| {
            let topic = client.request().path().to_owned();
            client.subscribe(&topic)?;
            client.send("subscribed")?;
            while let Some(message) = client.recv()? {
                client.hub()?.publish(&topic, message);
            }
            Ok(())
        });
        Self { server: server.expect("it starts"), gaps }
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, state: LinkState) {
        eventually(&format!("it is {state:?}"), || self.status().state == state);
    }

    pub(crate) fn status(&self) -> Status {
        self.server.hub().backplane().expect("a backplane")
    }

    /// Publishes the numbers on a topic.
    pub(crate) fn publish(&self, topic: &str, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            self.server.hub().publish(topic, number.to_string());
        }
    }

    /// Connects a client that has subscribed.
    pub(crate) fn client(&self, topic: &str) -> Connection {
        let url = format!("ws://{}{topic}", self.server.local_addr().expect("an address"));
        let mut client = threadws::connect(url).expect("open");
        assert_eq!(client.recv().expect("open"), Some("subscribed".into()));
        client
    }

    /// Returns how many messages the gaps of a topic had.
    pub(crate) fn missed(&self, topic: &str) -> u64 {
        let gaps = self.gaps.lock().expect("no panic");
        gaps.iter().filter(|gap| gap.topic() == Some(topic)).filter_map(Gap::missed).sum()
    }

    /// Returns how often messages may have been missed.
    pub(crate) fn losses(&self) -> usize {
        self.gaps.lock().expect("no panic").iter().filter(|gap| gap.missed().is_none()).count()
    }
}

#[track_caller]
pub(crate) fn expect(client: &mut Connection, text: &str) {
    assert_eq!(client.recv_timeout(PATIENCE).expect("open"), Some(text.into()));
}

#[track_caller]
pub(crate) fn expect_numbers(client: &mut Connection, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        expect(client, &number.to_string());
    }
}
