// SPDX-License-Identifier: BSD-3-Clause
#include "core/launcher_choice.h"

#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>

namespace lockstep {
namespace {

struct Candidate {
  const LauncherVariables* launcher;
  LaunchEnvironment place;
  std::size_t age = 0;
};

struct Found {
  std::vector<const LauncherVariables*> whole;
  std::vector<const LauncherVariables*> half;  // only a rank, or only a world size
};

Found find_launchers(const Lookup& own) {
  Found found;
  for (const LauncherVariables& launcher : kLaunchers) {
    if (!is_named(launcher, own)) continue;
    (is_whole(launcher, own) ? found.whole : found.half).push_back(&launcher);
  }
  return found;
}

const LauncherVariables* chosen_by_user(const std::string& choice) {
  std::string allowed;
  for (const LauncherVariables& launcher : kLaunchers) {
    if (choice == launcher.choice) return &launcher;
    allowed += std::string(launcher.choice) + ", ";
  }
  if (choice == "standalone") return nullptr;
  throw LaunchError("LOCKSTEP_LAUNCHER is '" + choice + "'; it must be " + allowed +
                    "or standalone");
}

/// How many generations ago the variables of a launcher got the values that they have here.
std::size_t age_of(const LauncherVariables& launcher, const Lookup& own,
                   const std::vector<Lookup>& ancestors) {
  const auto variables = launcher.variables();
  const auto has_same = [&](const Lookup& ancestor) {
    return std::all_of(variables.begin(), variables.end(), [&](const char* name) {
      return *name == '\0' || own(name) == ancestor(name);
    });
  };
  const auto older = std::find_if_not(ancestors.begin(), ancestors.end(), has_same);
  return static_cast<std::size_t>(older - ancestors.begin());
}

bool is_same_place(const LaunchEnvironment& one, const LaunchEnvironment& other) {
  return one.rank == other.rank && one.world_size == other.world_size;
}

std::string words_of(const Candidate& candidate, const std::string& where = "") {
  const LauncherVariables& launcher = *candidate.launcher;
  return to_string(launcher.launcher) + where + " says rank " +
         std::to_string(candidate.place.rank) + " of " +
         std::to_string(candidate.place.world_size) + " (" + launcher.rank + ", " +
         launcher.world_size + ")";
}

[[noreturn]] void throw_contradiction(const Candidate& one, const Candidate& other) {
  throw LaunchError(words_of(one) + ", " + words_of(other) +
                    ", and nothing shows which of them started this process; LOCKSTEP_LAUNCHER=" +
                    one.launcher->choice + " or LOCKSTEP_LAUNCHER=" + other.launcher->choice +
                    " says whose word counts");
}

/// `outer`: what another launcher says, which differs from what the innermost says.
void compare(const Candidate& inner, const Candidate& outer, const Lookup& own) {
  const bool is_alone = inner.place.world_size == 1 && outer.place.world_size > 1;
  const bool is_order_known = inner.age < outer.age;
  if (is_slurm(*outer.launcher)) {
    // Every process in an allocation has Slurm's variables. A shell in a step may start one rank.
    if (!is_alone || !is_step(*outer.launcher, own)) return;
    if (!is_order_known) throw_contradiction(inner, outer);
    logging::warning(words_of(inner) + ", " + words_of(outer, " around it") +
                     ": this process trains alone");
    return;
  }
  if (!is_order_known) throw_contradiction(inner, outer);
  if (is_alone) {
    throw LaunchError(words_of(inner) + ", " + words_of(outer, " around it") +
                      ": each of these processes would train alone; start all ranks by one "
                      "launcher, or set LOCKSTEP_LAUNCHER=" +
                      inner.launcher->choice + " if that is meant");
  }
}

/// What a launcher around the innermost says; nothing where its variables are garbled.
std::optional<LaunchEnvironment> place_around(const LauncherVariables& launcher,
                                              const Lookup& own) {
  try {
    return read_environment(launcher, own);
  } catch (const LaunchError&) {
    return std::nullopt;
  }
}

const LauncherVariables* choose_innermost(const std::vector<const LauncherVariables*>& found,
                                          const Lookup& own, const std::vector<Lookup>& ancestors) {
  std::vector<std::size_t> ages;
  for (const LauncherVariables* launcher : found) ages.push_back(age_of(*launcher, own, ancestors));
  const auto innermost = std::min_element(ages.begin(), ages.end());
  Candidate inner{found[static_cast<std::size_t>(innermost - ages.begin())], {}, *innermost};
  inner.place = read_environment(*inner.launcher, own);
  const LauncherVariables* chosen = inner.launcher;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] == inner.launcher) continue;
    const bool is_tied = ages[i] == inner.age;
    const auto place = is_tied ? read_environment(*found[i], own) : place_around(*found[i], own);
    if (!place) continue;
    const Candidate other{found[i], *place, ages[i]};
    if (!is_same_place(inner.place, other.place)) {
      compare(inner, other, own);
    } else if (has_local_size(*other.launcher, own) && !has_local_size(*chosen, own) &&
               (!is_slurm(*other.launcher) || is_step(*other.launcher, own))) {
      // Both launchers describe one world, and this one knows more of it: srun sets variables of
      // MPICH beside its own, and scripts set RANK and WORLD_SIZE as the launcher around them says.
      chosen = other.launcher;
    }
  }
  return chosen;
}

/// Half a set of variables describes no world, but it may be what is left of a world of several.
void check_half(const LauncherVariables& half, const LauncherVariables& inner, const Lookup& own) {
  if (is_slurm(half)) return;  // its allocations have such halves
  const bool has_rank = own(half.rank).has_value();
  const char* name = has_rank ? half.rank : half.world_size;
  const std::string value = own(name).value_or("");
  if (value == (has_rank ? "0" : "1") || read_environment(inner, own).world_size > 1) return;
  throw LaunchError(std::string(name) + " is '" + value + "' and " +
                    (has_rank ? half.world_size : half.rank) + " is not set, while " +
                    to_string(inner.launcher) +
                    " says rank 0 of 1; set both, or LOCKSTEP_LAUNCHER=" + inner.choice);
}

}  // namespace

const LauncherVariables* choose_launcher(const Lookup& own, const Ancestors& ancestors) {
  if (const auto choice = own("LOCKSTEP_LAUNCHER")) return chosen_by_user(*choice);
  const Found found = find_launchers(own);
  if (!found.whole.empty()) {
    const LauncherVariables* inner = found.whole.size() == 1
                                         ? found.whole.front()
                                         : choose_innermost(found.whole, own, ancestors());
    for (const LauncherVariables* half : found.half) check_half(*half, *inner, own);
    return inner;
  }
  if (!found.half.empty()) return found.half.front();
  // PMIx's variables do not say how many ranks there are. An error is better than ranks that train
  // alone.
  if (const auto rank = own("PMIX_RANK")) {
    throw LaunchError("PMIX_RANK is '" + *rank +
                      "', so that a launcher started this process, but none that is known says how "
                      "many ranks there are; set RANK and WORLD_SIZE for each, or "
                      "LOCKSTEP_LAUNCHER=standalone");
  }
  return nullptr;
}

}  // namespace lockstep
