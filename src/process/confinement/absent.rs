//! Confinement on systems without Landlock: none.

use super::{ConfinementRules, ConfinementStrength};

/// Does nothing, and reports so.
///
/// # Errors
/// Never.
pub fn confine(_rules: &ConfinementRules) -> Result<ConfinementStrength, String> {
    Ok(ConfinementStrength::None)
}
