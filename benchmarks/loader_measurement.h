// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/data_loader.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "percentile.h"
#include "process_figures.h"
#include "support/system_call_counter.h"

namespace bench {

struct LoaderSettings {
  std::int64_t batch = 64;
  std::int64_t workers = 0;
  std::string kind = "process";
  double seconds = 2;    ///< at least so long, and whole epochs
  int deliveries = 300;  ///< of batches that are ready; 0: none
};

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Whether this address is in memory that processes share by a descriptor, where a slot is.
inline bool is_in_shared_memory(const void* address) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream fields(line);
    std::uintptr_t first = 0;
    std::uintptr_t last = 0;
    char dash = 0;
    fields >> std::hex >> first >> dash >> last;
    if (wanted >= first && wanted < last) return line.find("memfd:") != std::string::npos;
  }
  return false;
}

/// One loader from its construction to its end. data_loader.py measures Python's in the same way.
template <class Dataset>
class LoaderMeasurement {
  using Options = lockstep::data::DataLoaderOptions;
  using Kind = lockstep::data::WorkerKind;
  // Long enough for the workers to be a batch ahead, and so much longer than a batch takes.
  static constexpr double kComputing = 2e-3;
  static constexpr double kAhead = 1.5;
  static constexpr double kAllComputing = 3;
  static constexpr double kSettingUp = 0.2;

 public:
  LoaderMeasurement(Dataset dataset, const LoaderSettings& settings)
      : settings_(settings),
        dataset_(dataset),
        before_(Clock::now()),
        loader_(std::move(dataset), options_of(settings)) {}

  nlohmann::json run() {
    first_epoch();
    first_batch_after_set_up();
    steady_epochs();
    if (settings_.deliveries > 0 && settings_.workers > 0) deliveries();
    figures_["workers"] = settings_.workers;
    return figures_;
  }

 private:
  static Options options_of(const LoaderSettings& settings) {
    return Options()
        .batch_size(settings.batch)
        .workers(settings.workers)
        .kind(settings.kind == "thread" ? Kind::Thread : Kind::Process)
        .shuffle(true);
  }

  auto begin() {
    loader_.set_epoch(epoch_++);
    return loader_.begin();
  }

  // What the batches hold is compared with what Python's hold.
  void first_epoch() {
    double targets = 0;
    double values = 0;
    bool is_slot = settings_.workers > 0;
    auto batch = begin();
    for (bool is_first = true; batch != loader_.end(); ++batch, is_first = false) {
      const auto& data = batch->data;
      if (is_first) figures_["first_batch_ms"] = 1e3 * seconds_since(before_);
      if (settings_.workers > 0) is_slot = is_slot && is_in_shared_memory(data.data_ptr());
      targets += batch->target.sum().template item<double>();
      values += data.sum(torch::kDouble).template item<double>();
    }
    figures_["target_sum"] = targets;
    figures_["data_sum"] = values;
    figures_["all_in_slots"] = is_slot;
  }

  // As in a program that builds its model between the loader and the first epoch.
  void first_batch_after_set_up() {
    lockstep::data::DataLoader<Dataset> loader(dataset_, options_of(settings_));
    compute(kSettingUp);
    const auto start = Clock::now();
    static_cast<void>(*loader.begin());
    figures_["first_batch_after_set_up_ms"] = 1e3 * seconds_since(start);
  }

  static void compute(double seconds) {
    const auto start = Clock::now();
    while (seconds_since(start) < seconds) {
    }
  }

  struct Kernel {
    std::uint64_t rank_faults = 0;
    std::uint64_t worker_faults = 0;
    std::uint64_t descriptors = 0;
  };

  [[nodiscard]] static Kernel look(const std::vector<int>& workers) {
    Kernel kernel;
    const auto rank = figures_of(::getpid());
    kernel.rank_faults = rank.minor_faults;
    kernel.descriptors = rank.descriptors;
    for (const int pid : workers) {
      const auto worker = figures_of(pid);
      kernel.worker_faults += worker.minor_faults;
      kernel.descriptors += worker.descriptors;
    }
    return kernel;
  }

  void steady_epochs() {
    const auto workers = descendants();
    one_epoch(nullptr);
    const auto copies = loader_.statistics().copies;
    const auto before = look(workers);
    std::vector<double> gaps;
    std::uint64_t batches = 0;
    samples_ = 0;
    const auto start = Clock::now();
    last_ = start;
    do batches += one_epoch(&gaps);
    while (seconds_since(start) < settings_.seconds);
    figures_["samples_per_second"] = static_cast<double>(samples_) / seconds_since(start);
    batch_seconds_ = seconds_since(start) / static_cast<double>(batches);
    const auto after = look(workers);
    const auto each = [&](std::uint64_t first, std::uint64_t last) {
      return (static_cast<double>(last) - static_cast<double>(first)) /
             static_cast<double>(batches);
    };
    figures_["batches"] = batches;
    figures_["epoch_gap_ms"] = percentile(gaps, 0.5);
    figures_["rank_faults_a_batch"] = each(before.rank_faults, after.rank_faults);
    figures_["worker_faults_a_batch"] = each(before.worker_faults, after.worker_faults);
    figures_["descriptors_a_batch"] = each(before.descriptors, after.descriptors);
    figures_["copied_batches"] = loader_.statistics().copies - copies;
    std::uint64_t largest = 0;
    for (const int pid : workers) largest = std::max(largest, figures_of(pid, true).private_kib);
    figures_["worker_private_mib"] = static_cast<double>(largest) / 1024;
  }

  // The gap is from the last batch of the epoch before to the first of this one.
  std::uint64_t one_epoch(std::vector<double>* gaps) {
    std::uint64_t batches = 0;
    for (auto batch = begin(); batch != loader_.end(); ++batch) {
      samples_ += batch->target.size(0);
      const auto now = Clock::now();
      if (batches++ == 0 && gaps != nullptr) {
        gaps->push_back(1e3 * std::chrono::duration<double>(now - last_).count());
      }
      last_ = now;
    }
    return batches;
  }

  // Asks for a batch when the workers have long been done with it; the program computes meanwhile.
  template <class Action>
  void over_ready_batches(const Action& action) {
    const auto computing = std::max(kComputing, kAhead * batch_seconds_);
    const auto size = loader_.size();
    int count = std::min(settings_.deliveries, static_cast<int>(kAllComputing / computing));
    auto batch = begin();
    for (std::size_t position = 0; count > 0; --count) {
      static_cast<void>(*batch);
      compute(computing);
      if (++position == size) {
        batch = begin();
        position = 0;
        continue;
      }
      action([&] {
        ++batch;
        static_cast<void>(batch == loader_.end());
        static_cast<void>(*batch);
      });
    }
  }

  void deliveries() {
    std::vector<double> times;
    over_ready_batches([&](const auto& next) {
      const auto start = Clock::now();
      next();
      times.push_back(1e6 * seconds_since(start));
    });
    figures_["delivery_us_p50"] = percentile(times, 0.5);
    figures_["delivery_us_p99"] = percentile(times, 0.99);
    std::vector<double> calls;
    if (lockstep::SystemCallCounter counter; counter.is_available()) {
      over_ready_batches([&](const auto& next) {
        calls.push_back(static_cast<double>(counter.calls_of(next).size()));
      });
      figures_["delivery_system_calls_p50"] = percentile(calls, 0.5);
      figures_["delivery_system_calls_p90"] = percentile(calls, 0.9);
    }
  }

  LoaderSettings settings_;
  Dataset dataset_;
  Clock::time_point before_;
  lockstep::data::DataLoader<Dataset> loader_;
  std::int64_t epoch_ = 0;
  std::int64_t samples_ = 0;
  double batch_seconds_ = 0;
  Clock::time_point last_;
  nlohmann::json figures_;
};

}  // namespace bench
