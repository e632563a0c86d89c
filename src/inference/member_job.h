// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/inference/ensemble_options.h>
#include <lockstep/inference/member.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "inference/request_channel.h"

namespace lockstep::inference::detail {

/// What all members are told. A process that is forked has a copy.
struct MemberJob {
  std::shared_ptr<RequestChannel> channel;
  std::vector<Member> members;
  EnsembleOptions options;
  /// How long one that has nothing to do looks again and again before it sleeps; 0 where it would
  /// take a core from another member.
  std::chrono::nanoseconds spin{};
  /// Members that are threads are made one after another: factories seed generators, and packages
  /// must not be loaded at the same time.
  std::mutex making;
};

}  // namespace lockstep::inference::detail
