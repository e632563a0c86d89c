// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/reexec.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "native/posix/posix_check.h"

namespace lockstep::native {

bool is_launch_variable(std::string_view assignment) {
  // A process that has these and calls MPI_Init would join its parent's job as one rank too many.
  constexpr std::array<std::string_view, 18> kPrefixes{
      "OMPI_",           "PMIX_",         "PMI_",   "PMI2_",  "PRTE_", "ORTE_", "MV2_",
      "PALS_",           "SLURM_",        "FLUX_",  "HYDRA_", "HYDI_", "JSM_",  "MPI_LOCALRANKID",
      "MPI_LOCALNRANKS", "TORCHELASTIC_", "I_MPI_", "LOCAL_"};
  constexpr std::array<std::string_view, 8> kNames{
      "RANK=",      "WORLD_SIZE=",  "GROUP_RANK=",      "GROUP_WORLD_SIZE=",
      "ROLE_RANK=", "MASTER_ADDR=", "ROLE_WORLD_SIZE=", "MASTER_PORT="};
  const auto begins_with = [&](std::string_view start) {
    return assignment.substr(0, start.size()) == start;
  };
  return std::any_of(kPrefixes.begin(), kPrefixes.end(), begins_with) ||
         std::any_of(kNames.begin(), kNames.end(), begins_with);
}

void reexec_self(const std::string& variable, int keep) {
  const auto name = variable.substr(0, variable.find('=') + 1);
  std::vector<std::string> environment{variable};
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view assignment(*entry);
    if (is_launch_variable(assignment) || assignment.substr(0, name.size()) == name) continue;
    environment.emplace_back(assignment);
  }
  std::vector<char*> pointers;
  pointers.reserve(environment.size() + 1);
  for (auto& assignment : environment) pointers.push_back(assignment.data());
  pointers.push_back(nullptr);
  std::string program = "lockstep-worker";
  std::array<char*, 2> arguments{program.data(), nullptr};
  if (::fcntl(keep, F_SETFD, 0) != 0) throw_errno("fcntl for a data worker");
  ::execve("/proc/self/exe", arguments.data(), pointers.data());
  throw_errno("running this program again as a data worker failed");
}

}  // namespace lockstep::native
