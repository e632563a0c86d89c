// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <string>
#include <utility>

#include "support/loader_test_support.h"

namespace lockstep::data {

/// Samples that draw: their bits say which seed, epoch and index they are of, whoever makes them.
/// Where `deadly` is set, the first worker at that sample ends by SIGKILL; `marker`, a file that
/// does not exist yet, remembers that, for processes of all kinds.
struct Drawn {
  std::size_t count = 0;
  std::int64_t deadly = -1;
  std::string marker = {};

  torch::data::Example<> get(std::size_t index, SampleRandom& random) {
    const auto number = static_cast<std::int64_t>(index);
    if (number == deadly) {
      const int file = ::open(marker.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
      if (file >= 0) ::raise(SIGKILL);
    }
    auto data = torch::empty({5}, torch::kDouble);
    for (int i = 0; i < 5; ++i) data.mutable_data_ptr<double>()[i] = random.uniform();
    return {data, torch::tensor(number)};
  }
  std::size_t size() const { return count; }
};

using SampleBytes = std::string;

/// What a loader must give for a sample: made here, without one.
inline SampleBytes bytes_of_sample(std::int64_t index, std::uint64_t seed, std::int64_t epoch) {
  SampleRandom random(seed, epoch, index);
  const auto sample = Drawn{}.get(static_cast<std::size_t>(index), random);
  SampleBytes bytes(static_cast<const char*>(sample.data.const_data_ptr()), sample.data.nbytes());
  return bytes.append(static_cast<const char*>(sample.target.const_data_ptr()),
                      sample.target.nbytes());
}

/// The samples of a batch, one by one.
inline std::vector<SampleBytes> bytes_of_batch(const torch::data::Example<>& batch) {
  std::vector<SampleBytes> samples;
  for (std::int64_t row = 0; row < batch.target.size(0); ++row) {
    const auto data = batch.data[row].contiguous();
    const auto target = batch.target[row];
    samples.emplace_back(static_cast<const char*>(data.const_data_ptr()), data.nbytes());
    samples.back().append(static_cast<const char*>(target.const_data_ptr()), target.nbytes());
  }
  return samples;
}

/// The index that a sample's bytes end in.
inline std::int64_t index_of(const SampleBytes& bytes) {
  std::int64_t index = 0;
  std::memcpy(&index, bytes.data() + bytes.size() - sizeof(index), sizeof(index));
  return index;
}

}  // namespace lockstep::data
