// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/comm/init.h>

#include "lockstep_side.h"

namespace bench {
namespace {

/// As the ranks would find their environment if this launcher had started them.
std::shared_ptr<lockstep::ProcessGroup> group_launched_by(lockstep::Launcher launcher) {
  auto environment = lockstep::LaunchEnvironment::detect();
  environment.launcher = launcher;
  environment.job_id += " " + to_string(launcher);
  return lockstep::init_process_group(lockstep::ProcessGroupOptions().environment(environment));
}

}  // namespace

std::vector<std::unique_ptr<Side>> make_network_sides() {
  std::vector<std::unique_ptr<Side>> sides;
  sides.push_back(
      make_lockstep_side("lockstep", group_launched_by(lockstep::Launcher::OpenMpi), true));
  sides.push_back(make_lockstep_side("lockstep_torchrun",
                                     group_launched_by(lockstep::Launcher::Torchrun), true));
  return sides;
}

}  // namespace bench
