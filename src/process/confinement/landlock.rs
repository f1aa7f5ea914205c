//! Confinement on Linux: the rules as a Landlock ruleset.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use super::{ConfinementRules, ConfinementStrength};

/// Applies `rules` to this thread, and to every thread that it starts from now on, irrevocably.
///
/// # Errors
/// The kernel has Landlock but rejects the ruleset.
pub fn confine(rules: &ConfinementRules) -> Result<ConfinementStrength, String> {
    match restrict(rules) {
        Ok(RestrictionStatus { ruleset: RulesetStatus::FullyEnforced, .. }) => {
            Ok(ConfinementStrength::Full)
        }
        Ok(RestrictionStatus { ruleset: RulesetStatus::PartiallyEnforced, .. }) => {
            Ok(ConfinementStrength::Partial)
        }
        Ok(_) => Ok(ConfinementStrength::None),
        Err(e) => Err(e.to_string()),
    }
}

fn restrict(rules: &ConfinementRules) -> Result<RestrictionStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let change = AccessFs::WriteFile | AccessFs::Truncate;
    let write = read | change | AccessFs::MakeReg | AccessFs::RemoveFile;
    let device: BitFlags<AccessFs> = read | AccessFs::WriteFile | AccessFs::IoctlDev;
    let ports = rules.ports.iter().map(|port| NetPort::new(*port, AccessNet::ConnectTcp));
    Ruleset::default()
        .handle_access(AccessFs::from_all(REQUESTED_ABI))?
        .handle_access(AccessNet::from_all(REQUESTED_ABI))?
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(&rules.read, read))?
        .add_rules(path_beneath_rules(&rules.write, write))?
        .add_rules(path_beneath_rules(&rules.remove, AccessFs::RemoveFile))?
        .add_rules(path_beneath_rules(&rules.devices, device))?
        .add_rules(ports.map(Ok::<_, RulesetError>))?
        .restrict_self()
}

/// The newest Landlock ABI used here. An older kernel enforces the part of it that it knows.
const REQUESTED_ABI: ABI = ABI::V6;
