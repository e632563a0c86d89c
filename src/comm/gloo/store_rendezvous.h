// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/environment.h>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "comm/gloo/rendezvous.h"
#include "concurrency/deadline.h"

namespace lockstep {

using GlooStore = c10::intrusive_ptr<c10d::Store>;

// A store of c10d's holds bytes.
[[nodiscard]] inline std::vector<std::uint8_t> bytes_of_text(const std::string& text) {
  return {text.begin(), text.end()};
}
[[nodiscard]] inline std::string text_of_bytes(const std::vector<std::uint8_t>& bytes) {
  return {bytes.begin(), bytes.end()};
}

/// The text of c10d's error, without the addresses where it was thrown.
[[nodiscard]] std::string message_of(const std::exception& error);

/// The store of a job. Where rank 0 has to serve it and the rendezvous is on the loop-back
/// interface, rank 0 listens there alone. Blocks. Throws: `LaunchError`.
[[nodiscard]] GlooStore open_gloo_store(const LaunchEnvironment& environment,
                                        const GlooRendezvous& rendezvous,
                                        std::chrono::milliseconds timeout);

/// A part of the store for one group: the same on all ranks, and never used before, although a
/// store may outlive groups and hold what failed attempts left. Every rank sends a join request
/// with a random number of its own (a nonce). When all have come, rank 0 makes up the name of the
/// part, and answers each rank under its nonce, so that no rank takes an old answer for its own.
///
/// Collective. Blocks. Throws: `LaunchError` naming ranks that do not come; c10d's errors where the
/// store breaks.
[[nodiscard]] GlooStore agree_on_gloo_group(const GlooStore& store,
                                            const LaunchEnvironment& environment,
                                            const Deadline& deadline);

[[nodiscard]] GlooStore gloo_store_part(const std::string& prefix, const GlooStore& store);

/// Returns when all of these ranks have come to a part of the store, so that what follows does not
/// wait for one that never comes. Throws: as `agree_on_gloo_group`.
void rendezvous_in_gloo_store(c10d::Store& store, int rank, int size,
                              std::chrono::milliseconds timeout);

}  // namespace lockstep
