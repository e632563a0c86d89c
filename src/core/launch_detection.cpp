// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/environment.h>
#include <lockstep/core/error.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <vector>

#include "core/launcher_choice.h"
#include "core/launchers.h"

namespace lockstep {
namespace {

std::vector<std::string> split_list(const std::string& list) {
  std::vector<std::string> names;
  std::istringstream text(list);
  for (std::string name; std::getline(text, name, ',');) names.push_back(name);
  return names;
}

void apply_fake_hosts(LaunchEnvironment& environment, const std::string& list) {
  const auto names = split_list(list);
  const bool has_gap =
      std::any_of(names.begin(), names.end(), [](const auto& name) { return name.empty(); });
  if (names.size() != static_cast<std::size_t>(environment.world_size) || has_gap) {
    throw LaunchError("LOCKSTEP_FAKE_HOSTS is '" + list + "'; it must name a host for each of " +
                      std::to_string(environment.world_size) + " ranks, as in a,a,b,b");
  }
  const auto own = names.begin() + environment.rank;
  environment.host = *own;
  environment.assumption.clear();
  environment.local_rank = static_cast<int>(std::count(names.begin(), own, *own));
  environment.local_size = static_cast<int>(std::count(names.begin(), names.end(), *own));
}

LaunchEnvironment detect_among(const Lookup& lookup, const Ancestors& ancestors) {
  const LauncherVariables* launcher = choose_launcher(lookup, ancestors);
  if (launcher == nullptr) return {};
  LaunchEnvironment result = read_environment(*launcher, lookup);
  if (const auto id = lookup("LOCKSTEP_JOB_ID")) result.job_id = "user " + *id;
  if (const auto hosts = lookup("LOCKSTEP_FAKE_HOSTS")) apply_fake_hosts(result, *hosts);
  return result;
}

}  // namespace

LaunchEnvironment LaunchEnvironment::detect() {
  const auto own = [](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
  return detect_among(own, process_ancestors);
}

LaunchEnvironment LaunchEnvironment::detect(const Lookup& lookup) {
  return detect_among(lookup, [] { return std::vector<Lookup>(); });
}

}  // namespace lockstep
