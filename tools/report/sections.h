// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <vector>

#include "manifest.h"
#include "prometheus.h"
#include "run_data.h"

namespace report {

/// A folder of checkpoints.
struct CheckpointFolder {
  std::string name;
  std::vector<Checkpoint> checkpoints;
};

/// A Prometheus file.
struct PrometheusTable {
  std::string name;
  std::vector<Sample> samples;
};

// Parts of the page. Each is empty where the run has logged nothing of the kind.

/// The figures that people ask for first.
[[nodiscard]] std::string summary(const RunData& data,
                                  const std::vector<CheckpointFolder>& checkpoints);
/// A chart for each name, with a curve for each rank.
[[nodiscard]] std::string curves(const RunData& data);
/// Steps and samples a second.
[[nodiscard]] std::string throughput(const RunData& data);
/// Where the time of a step goes.
[[nodiscard]] std::string step_phases(const RunData& data);
/// How long the program waited for batches, and why.
[[nodiscard]] std::string loader_stalls(const RunData& data);
/// What was saved, and what that cost.
[[nodiscard]] std::string checkpoints(const RunData& data,
                                      const std::vector<CheckpointFolder>& folders);
/// The values that were there for Prometheus last.
[[nodiscard]] std::string prometheus(const std::vector<PrometheusTable>& tables);
/// What was read, what was not, and what was lost.
[[nodiscard]] std::string sources(const RunData& data, const std::vector<FileNote>& files);

}  // namespace report
