// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/interfaces.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "native/posix/environment_variable.h"

namespace lockstep {
namespace {

constexpr const char* kOfNccl = "NCCL_SOCKET_IFNAME";
constexpr const char* kOfLockstep = "LOCKSTEP_INTERFACES";

/// Interfaces as NCCL's variable names them: beginnings of names, whole names after `=`, all but
/// these after `^`.
class Pattern {
 public:
  explicit Pattern(std::string_view text) {
    is_exclusion_ = take(text, '^');
    is_exact_ = take(text, '=');
    while (!text.empty()) {
      const auto end = std::min(text.find(','), text.size());
      if (end > 0) names_.emplace_back(text.substr(0, end));
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }

  [[nodiscard]] bool matches(const std::string& interface) const {
    const bool is_named = std::any_of(names_.begin(), names_.end(), [&](const std::string& name) {
      return is_exact_ ? interface == name : interface.starts_with(name);
    });
    return is_named != is_exclusion_;
  }

 private:
  static bool take(std::string_view& text, char first) {
    if (!text.starts_with(first)) return false;
    text.remove_prefix(1);
    return true;
  }

  bool is_exclusion_ = false;
  bool is_exact_ = false;
  std::vector<std::string> names_;
};

/// "eth0 10.0.0.1, eth1 10.0.1.1"
std::string list(const std::vector<native::InterfaceAddress>& addresses,
                 const std::string& pattern) {
  const Pattern wanted(pattern);
  std::string text;
  for (const auto& one : addresses) {
    if (!wanted.matches(one.interface)) continue;
    const std::string address = native::to_string(one.address);
    text += (text.empty() ? "" : ", ") + one.interface + " " +
            address.substr(0, address.rfind(':'));  // without the port
  }
  return text;
}

}  // namespace

NcclInterfaces choose_nccl_interfaces(const std::string& of_nccl, const std::string& of_lockstep,
                                      const std::vector<native::InterfaceAddress>& addresses) {
  NcclInterfaces chosen;
  std::string found;
  if (!of_nccl.empty() || !of_lockstep.empty()) {
    const bool is_own = !of_nccl.empty();
    if (!is_own) chosen.names = of_lockstep;
    found = list(addresses, is_own ? of_nccl : of_lockstep);
    chosen.description = std::string("because ") + (is_own ? kOfNccl : kOfLockstep) + " is '" +
                         (is_own ? of_nccl : of_lockstep) + "'";
  } else {
    // As NCCL looks for them.
    for (const char* pattern : {"ib", "^docker,lo", "docker", "lo"}) {
      if (found.empty()) found = list(addresses, pattern);
    }
    chosen.description =
        "chosen by NCCL, since neither NCCL_SOCKET_IFNAME nor LOCKSTEP_INTERFACES is set";
  }
  chosen.has_any = !found.empty();
  chosen.description =
      (found.empty() ? "no interface of this host" : found) + " (" + chosen.description + ")";
  return chosen;
}

const NcclInterfaces& set_nccl_interfaces() {
  static const NcclInterfaces chosen = [] {
    auto made = choose_nccl_interfaces(native::environment_variable(kOfNccl),
                                       native::environment_variable(kOfLockstep),
                                       native::interface_addresses());
    if (!made.names.empty()) ::setenv(kOfNccl, made.names.c_str(), 1);
    return made;
  }();
  return chosen;
}

}  // namespace lockstep
