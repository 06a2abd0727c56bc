//! How spares are spread among tenants, and who gives one where there are as many as may be. Pure.

use std::collections::HashMap;

use crate::domain::Tenant;

/// How many more whoever gives one has than who gets it: with one more they would only change places.
const MORE: u32 = 2;

/// What a tenant has.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// All of its spares, those included that are being made.
    all: u32,
    /// The most that one of its agents has, without those.
    most: u32,
}

/// What all tenants have.
pub(super) struct Spread<'a> {
    parts: HashMap<&'a Tenant, Part>,
    richest: Option<(&'a Tenant, u32)>,
}

impl<'a> Spread<'a> {
    /// That of these agents: whose each is, how many it has, and how many of these wait for a session.
    pub(super) fn of(agents: impl Iterator<Item = (&'a Tenant, u32, u32)>) -> Spread<'a> {
        let mut parts = HashMap::<_, Part>::new();
        for (tenant, there, waiting) in agents {
            let part = parts.entry(tenant).or_default();
            part.all = part.all.saturating_add(there);
            part.most = part.most.max(waiting);
        }
        // Of two that have as many always the same one.
        let giving = parts.iter().filter(|(_, part)| part.most > 0);
        let richest = giving.map(|(tenant, part)| (part.all, *tenant)).max();
        Spread { parts, richest: richest.map(|(all, tenant)| (tenant, all)) }
    }

    /// How many a tenant has, those included that are being made.
    pub(super) fn all_of(&self, tenant: &Tenant) -> u32 {
        self.parts.get(tenant).map_or(0, |part| part.all)
    }

    /// Who has most, of those that have one that waits for a session.
    pub(super) fn richest(&self) -> Option<&'a Tenant> {
        self.richest.map(|(tenant, _)| tenant)
    }

    /// Whose agent gives one for an agent of this tenant that has so many. That of another tenant first, if
    /// that one has no fewer than this one then; else one of its own, if it has no fewer than this agent.
    pub(super) fn giver(&self, (tenant, there): (&'a Tenant, u32)) -> Option<&'a Tenant> {
        let enough = self.all_of(tenant).saturating_add(MORE);
        let richer = self.richest.filter(|(_, all)| *all >= enough).map(|(tenant, _)| tenant);
        let most = self.parts.get(tenant).map_or(0, |part| part.most);
        richer.or_else(|| (most >= there.saturating_add(MORE)).then_some(tenant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_more_gives_until_others_have_as_many_or_one_fewer() {
        let [a, b, c]: [Tenant; 3] = ["a", "b", "c"].map(|name| name.parse().unwrap());
        let giver = |agents: &[(&Tenant, u32, u32)], to| {
            Spread::of(agents.iter().map(|(tenant, there, waiting)| (*tenant, *there, *waiting)))
                .giver(to)
                .map(Tenant::to_string)
        };
        let (of_a, of_b) = (Some("a".to_owned()), Some("b".to_owned()));
        // However many agents it has them for.
        assert_eq!(giver(&[(&a, 1, 1), (&a, 1, 1), (&b, 0, 0)], (&b, 0)), of_a);
        assert_eq!(giver(&[(&a, 1, 1), (&b, 0, 0)], (&b, 0)), None);
        assert_eq!(giver(&[(&a, 2, 2), (&b, 1, 1), (&b, 0, 0)], (&b, 0)), None);
        // What one of its own agents has too much of, where nobody else has.
        assert_eq!(giver(&[(&a, 2, 2), (&b, 2, 2), (&b, 0, 0)], (&b, 0)), of_b);
        assert_eq!(giver(&[(&a, 2, 1), (&a, 1, 1)], (&a, 1)), None);
        // One that is being made is not given, but it counts.
        assert_eq!(giver(&[(&a, 3, 0), (&b, 2, 1), (&c, 0, 0)], (&c, 0)), of_b);
        assert_eq!(giver(&[(&a, 2, 1), (&b, 0, 0)], (&b, 0)), of_a);
    }

    #[test]
    fn of_equals_it_is_always_the_same() {
        let all: Vec<Tenant> = (0..9).map(|name| format!("t{name}").parse().unwrap()).collect();
        let richest = Spread::of(all.iter().map(|tenant| (tenant, 1, 1))).richest();
        assert_eq!(richest, all.last());
        assert_eq!(Spread::of(all.iter().map(|tenant| (tenant, 1, 0))).richest(), None);
    }
}
