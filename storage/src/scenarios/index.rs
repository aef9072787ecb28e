//! When the index is believed, and when it is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::Options;
use crate::disk::{SimDisk, Survival};
use crate::index::{Index, IndexError, IndexFactory, MemoryIndexFactory, Rot, Tree};
use crate::rig::{Ground, put};

/// Rows are missing, and the stamp says that all is well: sled after a lost page.
fn power_cut_under_a_good_stamp() {
    let mut rig = Rig::sim(60);
    rig.churn(60, 300);
    rig.store.checkpoint();
    rig.run().unwrap();
    rig.kill();
    assert_eq!(rig.report.index_rebuilt, None, "only the process died");
    let mut rows = rig.index().copy();
    rig.cut_power(Survival::Everything, Rot::Behind);
    let mut nth = 0;
    rows.retain(|(tree, _, _)| {
        nth += 1;
        *tree == Tree::Stamp || nth % 3 > 0
    });
    rig.index().restore(rows);
    rig.reopen().unwrap();
    rig.check();
    assert!(rig.report.index_rebuilt.is_some());
}

#[test]
fn an_index_that_saw_a_power_cut_is_not_trusted() {
    noticed(Bug::TrustsTheIndex, power_cut_under_a_good_stamp);
}

/// An index that panics on what it finds, until it is thrown away.
#[derive(Debug)]
struct Panicky {
    index: MemoryIndexFactory,
    is_torn: Arc<AtomicBool>,
}

impl IndexFactory for Panicky {
    fn open(&mut self) -> Result<Arc<dyn Index>, IndexError> {
        assert!(!self.is_torn.load(Ordering::Relaxed), "a torn page");
        self.index.open()
    }

    fn discard(&mut self) -> Result<(), IndexError> {
        self.is_torn.store(false, Ordering::Relaxed);
        self.index.discard()
    }

    fn seal(&self) -> Result<(), IndexError> {
        self.index.seal()
    }
}

#[test]
fn an_index_that_panics_is_rebuilt() {
    let is_torn = Arc::new(AtomicBool::new(false));
    let (index, torn) = (MemoryIndexFactory::new(), Arc::clone(&is_torn));
    let factory = move || -> Box<dyn IndexFactory> {
        Box::new(Panicky {
            index: index.clone(),
            is_torn: Arc::clone(&torn),
        })
    };
    let ground = Ground::Real {
        disk: Arc::new(SimDisk::new(61)),
        index: Box::new(factory),
    };
    let mut rig = Rig::on(ground, Options::tiny());
    rig.churn(61, 100);
    rig.write(vec![put("last", "1")]).unwrap();
    rig.store.checkpoint();
    rig.run().unwrap();
    is_torn.store(true, Ordering::Relaxed);
    rig.reopen().unwrap();
    let why = rig.report.index_rebuilt.as_deref();
    assert_eq!(why, Some("opening it panicked"));
    rig.check();
}
