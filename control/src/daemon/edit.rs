//! Small edits: the same as an apply of the configuration in force with one thing changed in it.

use serde_json::{Map, Value, json};
use switch_core::addr::MacAddr;
use switch_core::vid::Vid;

use super::{Daemon, Failure, Request};
use crate::api::model::{ApplyReport, MacEdit, PortEdit};
use crate::config::validate::{EffectivePort, nearest};

impl Daemon {
    /// `POST /v1/ports`
    pub fn add_port(&mut self, edit: &PortEdit, author: String) -> Result<ApplyReport, Failure> {
        let Some(name) = &edit.name else {
            return Err(Failure::BadRequest("`name` is missing".to_owned()));
        };
        if self.config.port(name).is_some_and(EffectivePort::is_uplink) {
            return Err(Failure::Conflict(format!(
                "there is an uplink `{name}` already; names are unique across ports and uplinks"
            )));
        }
        if self.config.port(name).is_some() {
            return Err(Failure::Conflict(format!(
                "there is a port `{name}` already; change it with `vswitchctl port set {name}`"
            )));
        }
        let switch = match &edit.switch {
            Some(switch) => self.known_switch(switch)?,
            None => self.switch_of_group(edit)?,
        };
        let mut value = self.config.config().to_value();
        let ports = ports_of(&mut value, &switch)?;
        let mut settings = Map::new();
        set_all(&mut settings, &edit.settings)?;
        ports.insert(name.clone(), Value::Object(settings));
        self.apply_value(&value, request(author, format!("port add {name}")))
    }

    /// `PATCH /v1/ports/NAME`
    pub fn set_port(&mut self, name: &str, edit: &PortEdit, author: String) -> Result<ApplyReport, Failure> {
        let (mut value, switch) = self.with_port(name)?;
        if let Some(wanted) = &edit.switch
            && *wanted != switch
        {
            return Err(Failure::Conflict(format!(
                "port `{name}` is in switch `{switch}`; to move it, delete it and add it to `{wanted}`"
            )));
        }
        let ports = ports_of(&mut value, &switch)?;
        let settings = ports
            .get_mut(name)
            .and_then(Value::as_object_mut)
            .ok_or_else(|| self.no_port(name))?;
        set_all(settings, &edit.settings)?;
        self.apply_value(&value, request(author, format!("port set {name}")))
    }

    /// `DELETE /v1/ports/NAME`
    pub fn delete_port(&mut self, name: &str, author: String) -> Result<ApplyReport, Failure> {
        let (mut value, switch) = self.with_port(name)?;
        ports_of(&mut value, &switch)?.shift_remove(name);
        self.apply_value(&value, request(author, format!("port del {name}")))
    }

    /// `POST /v1/macs`
    pub fn add_mac(&mut self, edit: &MacEdit, author: String) -> Result<ApplyReport, Failure> {
        let (mut value, switch) = self.with_port(&edit.port)?;
        let port = self.known_port(&edit.port)?;
        let own = untagged(port);
        let mut entry = json!({ "mac": edit.mac });
        if edit.vlan.is_some() && edit.vlan != own {
            entry["vlan"] = json!(edit.vlan);
        }
        let wanted = edit.vlan.or(own);
        let known = |(vid, mac): &(Vid, MacAddr)| Some(vid.get()) == wanted && *mac == edit.mac;
        if !port.static_macs.iter().any(known) {
            self.statics_of(&mut value, &switch, &edit.port)?.push(entry);
        }
        self.apply_value(
            &value,
            request(author, format!("mac add {} {}", edit.port, edit.mac)),
        )
    }

    /// `DELETE /v1/macs`
    pub fn delete_mac(&mut self, edit: &MacEdit, author: String) -> Result<ApplyReport, Failure> {
        let (mut value, switch) = self.with_port(&edit.port)?;
        let port = self.known_port(&edit.port)?;
        let own = untagged(port);
        let wanted = edit.vlan.or(own);
        let statics = self.statics_of(&mut value, &switch, &edit.port)?;
        let before = statics.len();
        statics.retain(|entry| {
            let mac: Option<MacAddr> = entry.get("mac").and_then(|mac| mac.as_str()?.parse().ok());
            let vlan = match entry.get("vlan").and_then(Value::as_u64) {
                Some(vlan) => u16::try_from(vlan).ok(),
                None => own,
            };
            mac != Some(edit.mac) || vlan != wanted
        });
        if statics.len() == before {
            return Err(Failure::NotFound(format!(
                "port `{}` has no static entry for {}; `vswitchctl mac list` shows what there is",
                edit.port, edit.mac
            )));
        }
        if statics.is_empty()
            && let Some(settings) = ports_of(&mut value, &switch)?
                .get_mut(&edit.port)
                .and_then(Value::as_object_mut)
        {
            settings.shift_remove("static-macs");
        }
        self.apply_value(
            &value,
            request(author, format!("mac del {} {}", edit.port, edit.mac)),
        )
    }

    fn with_port(&self, name: &str) -> Result<(Value, String), Failure> {
        let port = self.known_port(name)?;
        let switch = self.config.switch_of(port).name.as_str().to_owned();
        if port.is_uplink() {
            return Err(Failure::Conflict(format!(
                "`{name}` is an uplink; change it under `uplinks` of the switch `{switch}` in the configuration, and apply that"
            )));
        }
        Ok((self.config.config().to_value(), switch))
    }

    fn statics_of<'a>(
        &self,
        value: &'a mut Value,
        switch: &str,
        port: &str,
    ) -> Result<&'a mut Vec<Value>, Failure> {
        ports_of(value, switch)?
            .get_mut(port)
            .and_then(Value::as_object_mut)
            .and_then(|settings| {
                settings
                    .entry("static-macs")
                    .or_insert_with(|| json!([]))
                    .as_array_mut()
            })
            .ok_or_else(|| self.no_port(port))
    }

    /// The switch of a new port that names none: the only one, or the only one that has the port's group.
    fn switch_of_group(&self, edit: &PortEdit) -> Result<String, Failure> {
        let group = edit.settings.get("port-group").and_then(Value::as_str);
        let switches = self.config.switches();
        if let [only] = switches {
            return Ok(only.name.as_str().to_owned());
        }
        let mut having = switches.iter().filter(|switch| {
            switch
                .groups
                .iter()
                .any(|known| Some(known.name.as_str()) == group)
        });
        match (having.next(), having.next()) {
            (Some(switch), None) => Ok(switch.name.as_str().to_owned()),
            _ if switches.is_empty() => Err(Failure::Conflict(
                "there is no switch yet; apply a configuration that has one".to_owned(),
            )),
            _ => Err(Failure::BadRequest(format!(
                "`switch` is missing; there are {}",
                switches
                    .iter()
                    .map(|switch| switch.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            ))),
        }
    }

    fn known_switch(&self, name: &str) -> Result<String, Failure> {
        let known = self.config.switches().iter().map(|switch| switch.name.as_str());
        match self.config.switch(name) {
            Some(switch) => Ok(switch.name.as_str().to_owned()),
            None => Err(not_found("switch", name, known)),
        }
    }

    /// A port of the configuration in force.
    pub(super) fn known_port(&self, name: &str) -> Result<&EffectivePort, Failure> {
        self.config.port(name).ok_or_else(|| self.no_port(name))
    }

    fn no_port(&self, name: &str) -> Failure {
        let known = self.config.ports().iter().map(|port| port.name.as_str());
        not_found("port", name, known)
    }
}

/// There is no such thing; the nearest name may be meant.
pub(super) fn not_found<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    Failure::NotFound(match nearest(name, known) {
        Some(nearest) => format!("there is no {what} `{name}`; did you mean `{nearest}`?"),
        None => format!("there is no {what} `{name}`; `vswitchctl show` lists what there is"),
    })
}

fn request(author: String, comment: String) -> Request {
    Request {
        author,
        comment,
        ..Request::default()
    }
}

/// Sets keys, dotted ones inside the maps that they name; `null` removes a key, and with its last key a map.
fn set_all(settings: &mut Map<String, Value>, edits: &Map<String, Value>) -> Result<(), Failure> {
    for (key, value) in edits {
        set(settings, key, value)?;
    }
    Ok(())
}

fn set(settings: &mut Map<String, Value>, key: &str, value: &Value) -> Result<(), Failure> {
    let Some((head, tail)) = key.split_once('.') else {
        if value.is_null() {
            settings.shift_remove(key);
        } else {
            settings.insert(key.to_owned(), value.clone());
        }
        return Ok(());
    };
    if value.is_null() && !settings.contains_key(head) {
        return Ok(());
    }
    let inner = settings
        .entry(head)
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
        .ok_or_else(|| {
            Failure::Conflict(format!(
                "`{key}` cannot be set: `{head}` of this port is a value, not a map; set `{head}` as a whole"
            ))
        })?;
    set(inner, tail, value)?;
    if inner.is_empty() {
        settings.shift_remove(head);
    }
    Ok(())
}

/// The VLAN of a port's untagged frames, as a static entry may name it.
fn untagged(port: &EffectivePort) -> Option<u16> {
    port.rules.vlan_policy().untagged().map(Vid::get)
}

fn ports_of<'a>(value: &'a mut Value, switch: &str) -> Result<&'a mut Map<String, Value>, Failure> {
    value
        .get_mut("switches")
        .and_then(|switches| switches.get_mut(switch))
        .and_then(Value::as_object_mut)
        .and_then(|switch| switch.entry("ports").or_insert_with(|| json!({})).as_object_mut())
        .ok_or_else(|| Failure::NotFound(format!("there is no switch `{switch}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(settings: Value, edits: Value) -> Result<Value, Failure> {
        let (Value::Object(mut settings), Value::Object(edits)) = (settings, edits) else {
            panic!("maps are given");
        };
        set_all(&mut settings, &edits)?;
        Ok(Value::Object(settings))
    }

    #[test]
    fn a_dotted_key_leaves_its_neighbours_alone() {
        let port = json!({ "tap": "vm1", "security": { "mac-changes": "accept" } });
        let both = json!({ "tap": "vm1", "security": { "mac-changes": "accept", "promiscuous": "accept" } });
        assert_eq!(
            edited(port, json!({ "security.promiscuous": "accept" })).unwrap(),
            both
        );
        let one = json!({ "tap": "vm1", "security": { "promiscuous": "accept" } });
        assert_eq!(
            edited(both, json!({ "security.mac-changes": null })).unwrap(),
            one
        );
        let none = json!({ "tap": "vm1" });
        assert_eq!(
            edited(one, json!({ "security.promiscuous": null })).unwrap(),
            none
        );
        assert_eq!(
            edited(none.clone(), json!({ "security.promiscuous": null })).unwrap(),
            none
        );
    }

    #[test]
    fn a_plain_key_is_replaced_as_a_whole() {
        let port = json!({ "vlan": { "trunk": [100], "native": 1 } });
        let edit = json!({ "vlan": { "trunk": [200] } });
        assert_eq!(edited(port, edit.clone()).unwrap(), edit);
        assert!(edited(json!({ "vlan": 100 }), json!({ "vlan.native": 1 })).is_err());
    }
}
