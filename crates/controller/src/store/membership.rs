//! Pure. Which controllers shall have a vote, and the next step towards that.
//!
//! The number of votes is odd, at most five: a second of two would only add a way to lose the majority. A controller
//! without a vote receives everything all the same and gets one as soon as the number can be odd with it.

use std::collections::{BTreeMap, BTreeSet};

use crate::raft::types::{Member, RaftId};

/// More votes make every write slower and no cluster safer.
const MOST_VOTERS: usize = 5;

/// How things stand.
#[derive(Debug, Clone, Default)]
pub struct Membership {
    /// Everybody in Raft's configuration.
    pub members: BTreeMap<RaftId, Member>,
    /// Those who have a vote, or will have once the change that is under way is finished.
    pub voters: BTreeSet<RaftId>,
    /// A change of the voters is half done (Raft's joint configuration): until it is finished, every decision needs a
    /// majority of the voters before as well as of those after.
    pub unfinished: bool,
    /// Those whose log is nearly as long as the leader's.
    pub caught_up: BTreeSet<RaftId>,
    /// The leader.
    pub leader: RaftId,
}

/// What to do next. One at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A controller that joined begins to receive the log.
    AddLearner(RaftId, Member),
    /// A controller moved to another address.
    Move(RaftId, Member),
    /// Exactly these have a vote.
    SetVoters(BTreeSet<RaftId>),
    /// They left the cluster.
    Remove(BTreeSet<RaftId>),
}

/// The next step from how things stand to what the state says the controllers are. `ready` are those that are heard.
#[must_use]
pub fn next_step(now: &Membership, wanted: &BTreeMap<RaftId, Member>, ready: &BTreeSet<RaftId>) -> Option<Step> {
    if now.unfinished {
        // Whoever began it may have ended in between.
        return Some(Step::SetVoters(now.voters.clone()));
    }
    if wanted.is_empty() {
        return None;
    }
    if let Some((&id, member)) = wanted.iter().find(|(id, _)| !now.members.contains_key(id)) {
        return Some(Step::AddLearner(id, member.clone()));
    }
    if let Some((&id, member)) = wanted.iter().find(|&(id, member)| now.members.get(id) != Some(member)) {
        return Some(Step::Move(id, member.clone()));
    }
    let voters = voters(now, wanted, ready);
    if !voters.is_empty() && voters != now.voters {
        return Some(Step::SetVoters(voters));
    }
    let gone: BTreeSet<RaftId> =
        now.members.keys().filter(|id| !wanted.contains_key(id) && !now.voters.contains(id)).copied().collect();
    (!gone.is_empty()).then_some(Step::Remove(gone))
}

fn voters(now: &Membership, wanted: &BTreeMap<RaftId, Member>, ready: &BTreeSet<RaftId>) -> BTreeSet<RaftId> {
    let mut candidates: Vec<RaftId> =
        wanted.keys().filter(|id| now.voters.contains(id) || now.caught_up.contains(id)).copied().collect();
    candidates.sort_by_key(|id| (*id != now.leader, !ready.contains(id), !now.voters.contains(id), *id));
    let most = candidates.len().min(MOST_VOTERS);
    let odd = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
    // Votes are not moved between controllers that all work: who has one keeps it.
    if now.voters.len() == odd && now.voters.iter().all(|id| candidates.contains(id)) {
        return now.voters.clone();
    }
    candidates.into_iter().take(odd).collect()
}

/// Whether the cluster can still decide after this controller has left. `ready` are those that are heard.
#[must_use]
pub fn survives_removal(now: &Membership, removed: RaftId, ready: &BTreeSet<RaftId>) -> bool {
    let rest: Vec<&RaftId> = now.voters.iter().filter(|id| **id != removed).collect();
    let able = rest.iter().filter(|id| ready.contains(id) || ***id == now.leader).count();
    if !now.voters.contains(&removed) {
        return true;
    }
    // The change itself needs the old majority, and everything afterwards the new one.
    let removed_is_able = ready.contains(&removed) || removed == now.leader;
    !rest.is_empty() && able * 2 > rest.len() && (able + usize::from(removed_is_able)) * 2 > now.voters.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stack_model::NodeId;

    use super::*;

    fn member(id: RaftId) -> Member {
        Member { node: NodeId::from_bits(u128::from(id)), ..Member::default() }
    }

    /// Takes steps until there is none; answers all of them.
    fn settle(now: &mut Membership, wanted: &BTreeMap<RaftId, Member>) -> Vec<Step> {
        let mut steps = Vec::new();
        let ready = wanted.keys().copied().collect();
        while let Some(step) = next_step(now, wanted, &ready) {
            match &step {
                Step::AddLearner(id, member) => {
                    now.members.insert(*id, member.clone());
                    now.caught_up.insert(*id);
                }
                Step::Move(id, member) => {
                    now.members.insert(*id, member.clone());
                }
                Step::SetVoters(voters) => {
                    now.voters.clone_from(voters);
                    now.unfinished = false;
                    if !voters.contains(&now.leader) {
                        now.leader = *voters.first().unwrap();
                    }
                }
                Step::Remove(ids) => now.members.retain(|id, _| !ids.contains(id)),
            }
            steps.push(step);
            assert!(steps.len() < 100, "no end: {steps:?}");
        }
        steps
    }

    fn single(id: RaftId) -> Membership {
        Membership {
            members: BTreeMap::from([(id, member(id))]),
            voters: BTreeSet::from([id]),
            unfinished: false,
            caught_up: BTreeSet::from([id]),
            leader: id,
        }
    }

    #[test]
    fn the_second_waits_for_the_third() {
        let mut now = single(1);
        settle(&mut now, &[1, 2].map(|id| (id, member(id))).into());
        assert_eq!(now.voters, BTreeSet::from([1]));
        settle(&mut now, &[1, 2, 3].map(|id| (id, member(id))).into());
        assert_eq!(now.voters, BTreeSet::from([1, 2, 3]));
    }

    #[test]
    fn a_change_that_its_leader_did_not_finish_is_finished_first() {
        let mut now = single(1);
        let wanted = [1, 2, 3].map(|id| (id, member(id))).into();
        settle(&mut now, &wanted);
        now.unfinished = true;
        assert_eq!(settle(&mut now, &wanted), [Step::SetVoters(BTreeSet::from([1, 2, 3]))]);
    }

    #[test]
    fn a_controller_that_is_down_keeps_its_vote_until_it_is_removed() {
        let mut now = single(1);
        let wanted = [1, 2, 3].map(|id| (id, member(id))).into();
        settle(&mut now, &wanted);
        now.caught_up.remove(&3);
        assert_eq!(next_step(&now, &wanted, &BTreeSet::from([1, 2])), None);
    }

    #[test]
    fn a_removal_that_would_break_the_majority_is_seen() {
        let mut now = single(1);
        settle(&mut now, &[1, 2, 3].map(|id| (id, member(id))).into());
        assert!(survives_removal(&now, 3, &BTreeSet::from([1, 2])));
        assert!(survives_removal(&now, 3, &BTreeSet::from([1, 2, 3])));
        assert!(!survives_removal(&now, 2, &BTreeSet::from([1, 2])), "the third is down: two votes, one of them dead");
        assert!(!survives_removal(&single(1), 1, &BTreeSet::from([1])));
    }

    proptest! {
        #[test]
        fn every_change_settles_on_an_odd_number_of_wanted_voters(
            rounds in proptest::collection::vec(proptest::collection::btree_set(1u64..9, 1..8), 1..6),
        ) {
            let mut now = single(1);
            for round in rounds {
                let wanted: BTreeMap<RaftId, Member> = round.into_iter().map(|id| (id, member(id))).collect();
                settle(&mut now, &wanted);
                prop_assert_eq!(&now.members, &wanted);
                prop_assert_eq!(now.voters.len() % 2, 1);
                prop_assert!(now.voters.len() <= MOST_VOTERS && now.voters.len() + 2 > wanted.len().min(MOST_VOTERS));
                prop_assert!(now.voters.iter().all(|id| wanted.contains_key(id)));
            }
        }
    }
}
