// SPDX-License-Identifier: BSD-3-Clause
#include "core/launchers.h"

#include <lockstep/core/error.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <string>
#include <utility>

namespace lockstep {
namespace {

constexpr int kMaxRanks = 1 << 20;
constexpr const char* kSlurmLocalSizes = "SLURM_STEP_TASKS_PER_NODE";

class Reader {
 public:
  Reader(const Lookup& lookup, std::string launcher)
      : lookup_(lookup), launcher_(std::move(launcher)) {}

  /// A whole number in [least, most]; anything else names the variable.
  [[nodiscard]] int number(const std::string& name, int least, int most) const {
    const auto text = lookup_(name);
    if (!text) {
      throw LaunchError(name + " is not set, although other variables of " + launcher_ + " are");
    }
    return parse(name, *text, least, most);
  }

  [[nodiscard]] std::optional<int> optional_number(const std::string& name, int least,
                                                   int most) const {
    if (name.empty()) return std::nullopt;
    const auto text = lookup_(name);
    if (!text) return std::nullopt;
    return parse(name, *text, least, most);
  }

  [[nodiscard]] std::string text(const std::string& name) const {
    return lookup_(name).value_or("");
  }

 private:
  [[nodiscard]] int parse(const std::string& name, const std::string& text, int least,
                          int most) const {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) {
      throw LaunchError(name + " is '" + text + "'; " + launcher_ +
                        " should have set it to a whole number from " + std::to_string(least) +
                        " to " + std::to_string(most));
    }
    return value;
  }

  const Lookup& lookup_;
  std::string launcher_;
};

/// Tasks on this node out of "4(x2),3": Slurm lists them in node order, run-length coded.
int slurm_local_size(const Reader& reader) {
  const std::string name = kSlurmLocalSizes;
  const std::string list = reader.text(name);
  const int node = reader.optional_number("SLURM_NODEID", 0, kMaxRanks).value_or(0);
  int at = 0;
  for (std::size_t start = 0; start < list.size();) {
    const std::size_t end = std::min(list.find(',', start), list.size());
    int tasks = 0;
    int nodes = 1;
    const char* last = list.data() + end;
    auto result = std::from_chars(list.data() + start, last, tasks);
    bool is_good = result.ec == std::errc() && tasks > 0;
    if (is_good && result.ptr != last) {
      const std::string rest(result.ptr, last);
      is_good = rest.size() > 3 && rest.starts_with("(x") && rest.back() == ')';
      if (is_good) {
        const char* first = result.ptr + 2;
        result = std::from_chars(first, last - 1, nodes);
        is_good = result.ec == std::errc() && result.ptr == last - 1 && nodes > 0;
      }
    }
    if (!is_good) throw LaunchError(name + " is '" + list + "'; expected a list such as 4(x2),3");
    at += nodes;
    if (node < at) return tasks;
    start = end + 1;
  }
  throw LaunchError(name + " is '" + list + "', which has no entry for node " +
                    std::to_string(node) + " (SLURM_NODEID)");
}

/// A text that all ranks of the job have, and no other job that runs at the same time.
std::string job_id(Launcher launcher, const Reader& reader) {
  switch (launcher) {
    case Launcher::OpenMpi:
      // The namespace alone is a short hash; the address of mpirun itself makes it unique on this
      // host.
      return "openmpi " + reader.text("PMIX_NAMESPACE") + " " +
             reader.text("OMPI_MCA_orte_hnp_uri");
    case Launcher::Slurm:
      return "slurm " + reader.text("SLURM_JOB_ID") + "." + reader.text("SLURM_STEP_ID");
    case Launcher::Torchrun:
      return "torchrun " + reader.text("MASTER_ADDR") + ":" + reader.text("MASTER_PORT") + " " +
             reader.text("TORCHELASTIC_RUN_ID") + " " + reader.text("TORCHELASTIC_RESTART_COUNT");
    default:
      // Hydra names no job, but its proxy is the parent of all ranks of a host.
      return "parent " + std::to_string(::getppid());
  }
}

}  // namespace

std::string to_string(Launcher launcher) {
  switch (launcher) {
    case Launcher::Standalone:
      return "standalone";
    case Launcher::OpenMpi:
      return "Open MPI";
    case Launcher::Mpich:
      return "MPICH";
    case Launcher::Torchrun:
      return "torchrun";
    case Launcher::Slurm:
      return "Slurm";
    case Launcher::Custom:
      return "a custom launcher";
  }
  return "unknown";
}

bool is_named(const LauncherVariables& launcher, const Lookup& lookup) {
  return lookup(launcher.rank) || lookup(launcher.world_size);
}

bool is_whole(const LauncherVariables& launcher, const Lookup& lookup) {
  return lookup(launcher.rank) && (lookup(launcher.world_size) || is_step(launcher, lookup));
}

bool is_step(const LauncherVariables& launcher, const Lookup& lookup) {
  return is_slurm(launcher) && lookup(launcher.step_size);
}

bool has_local_size(const LauncherVariables& launcher, const Lookup& lookup) {
  return lookup(is_slurm(launcher) ? kSlurmLocalSizes : launcher.local_size).has_value();
}

LaunchEnvironment read_environment(const LauncherVariables& launcher, const Lookup& lookup) {
  const Reader reader(lookup, to_string(launcher.launcher));
  LaunchEnvironment result;
  result.launcher = launcher.launcher;
  // A job step of Slurm can be smaller than its allocation.
  const auto step_size = reader.optional_number(launcher.step_size, 1, kMaxRanks);
  result.world_size = step_size ? *step_size : reader.number(launcher.world_size, 1, kMaxRanks);
  result.rank = reader.number(launcher.rank, 0, result.world_size - 1);
  const auto local_size = is_slurm(launcher)
                              ? (reader.text(kSlurmLocalSizes).empty() ? std::optional<int>()
                                                                       : slurm_local_size(reader))
                              : reader.optional_number(launcher.local_size, 1, result.world_size);
  // Where no variable tells of hosts, all ranks are assumed to be on this one.
  result.local_size = local_size.value_or(result.world_size);
  if (!local_size && result.world_size > 1) {
    result.assumption = std::string(is_slurm(launcher) ? kSlurmLocalSizes : launcher.local_size) +
                        " is not set, so that all " + std::to_string(result.world_size) +
                        " ranks were taken to be on this host; where they are on several, set it "
                        "and " +
                        launcher.local_rank + " for each";
  }
  result.local_rank = reader.optional_number(launcher.local_rank, 0, result.local_size - 1)
                          .value_or(result.rank % result.local_size);
  result.job_id = job_id(launcher.launcher, reader);
  return result;
}

}  // namespace lockstep
