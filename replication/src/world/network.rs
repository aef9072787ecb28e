//! The network between the nodes.

use super::*;

impl World {
    pub(super) fn transmit(&mut self, from: usize, to: NodeId, message: &Message) {
        let Some(to) = self.node_of(to) else { return };
        self.count("messages");
        if from == to {
            self.fail(format!("node {from} wrote to itself"));
        }
        let mut message = message.clone();
        if let Message::Snapshot(snapshot) = &mut message {
            self.count("snapshot messages");
            if let crate::message::SnapshotBody::Chunk { payload, .. } = &mut snapshot.body {
                self.count("chunks");
                let spoil = self.spoiled_chunks > 0 && !payload.is_empty();
                if spoil {
                    self.spoiled_chunks -= 1;
                    let mut bytes = payload.to_vec();
                    let at = self.random.next() as usize % bytes.len();
                    bytes[at] ^= 4;
                    *payload = bytes.into();
                }
            }
        }
        let frame = Bytes::from_owner(message.encode(AlignedVec::new()));
        let link = self.links[from][to];
        if link.cut || self.chance(link.loss_permille) {
            return;
        }
        let copies = if self.chance(link.repeat_permille) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = self.between(link.delay_us);
            let life = self.machines[to].life;
            let frame = frame.clone();
            self.after(
                delay,
                Happening::Deliver {
                    node: to,
                    from,
                    life,
                    frame,
                },
            );
        }
    }
}
