// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace lockstep::fuzz {

using Bytes = std::vector<std::uint8_t>;

/// A refusal without a text and a backtrace, which take most of the time of a run that makes them.
struct Refused {};

/// Something that takes bytes from outside.
struct FuzzTarget {
  std::string name;
  /// Inputs that are accepted; all others are made of these.
  std::vector<Bytes> seeds;
  /// Uses the input as a program would. May throw `c10::Error` or `Refused`, and nothing else.
  std::function<void(const Bytes& input)> run;
  /// Makes checksums right again, so that what they guard is reached as well. May be empty.
  std::function<void(Bytes& input)> repair;
};

std::vector<FuzzTarget> reader_targets();
std::vector<FuzzTarget> image_targets();
std::vector<FuzzTarget> pipeline_targets();
std::vector<FuzzTarget> training_targets();
/// All of them. Drivers take their targets from here.
std::vector<FuzzTarget> fuzz_targets();

/// False when the target throws `c10::Error` or `Refused`; anything else that it throws goes on.
bool is_accepted(const FuzzTarget& target, const Bytes& input);

/// One after the other: the last input as an ordinary file that has no name outside of this
/// process. Returns its path.
std::string as_file(const Bytes& input);

}  // namespace lockstep::fuzz
