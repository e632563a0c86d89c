// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <lockstep/comm/init.h>
#include <lockstep/training/profiler.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

namespace lockstep::testing {

using nlohmann::json;

inline json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  return json::parse(file);
}

/// Those of one category, in the order of their begins.
inline std::vector<json> events_of(const json& trace, const std::string& category) {
  std::vector<json> found;
  for (const auto& event : trace.at("traceEvents")) {
    if (event.value("cat", "") == category) found.push_back(event);
  }
  std::sort(found.begin(), found.end(), [](const json& a, const json& b) {
    return a.at("ts").get<double>() < b.at("ts").get<double>();
  });
  return found;
}

inline std::vector<std::string> names_of(const std::vector<json>& events) {
  std::vector<std::string> names;
  for (const auto& event : events) names.push_back(event.at("name"));
  return names;
}

inline std::size_t count(const std::vector<json>& events, const std::string& name) {
  const auto names = names_of(events);
  return static_cast<std::size_t>(std::count(names.begin(), names.end(), name));
}

/// Ranks with a group and a folder that they share.
class ProfilerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    group = init_process_group();
    const auto job = torch::full({1}, static_cast<std::int64_t>(::getpid()), torch::kLong);
    group->broadcast(job).wait();
    folder = std::filesystem::temp_directory_path() /
             ("lockstep_profiler_" + std::to_string(job.item<std::int64_t>()));
    if (group->rank() == 0) std::filesystem::remove_all(folder);
    group->barrier();
  }

  void TearDown() override {
    group->barrier();
    if (group->rank() == 0) std::filesystem::remove_all(folder);
    group->close();
  }

  [[nodiscard]] std::filesystem::path trace(int step) const {
    return folder /
           ("rank" + std::to_string(group->rank()) + ".step" + std::to_string(step) + ".json");
  }
  [[nodiscard]] std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      names.insert(entry.path().filename());
    }
    return names;
  }

  /// Some operators.
  void train_step() {
    torch::linear(input, weight).square().mean().backward();
    weight.mutable_grad().reset();
  }

  std::shared_ptr<ProcessGroup> group;
  std::filesystem::path folder;
  torch::Tensor input = torch::ones({5, 4});
  torch::Tensor weight = torch::ones({3, 4}, torch::requires_grad());
};

}  // namespace lockstep::testing
