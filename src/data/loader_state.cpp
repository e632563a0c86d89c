// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/data/loader_state.h>

#include <array>
#include <cstring>

namespace lockstep::data {
namespace {

constexpr std::string_view kMagic = "LSLOADR1";
constexpr std::size_t kWords = 5;

}  // namespace

std::string LoaderState::to_bytes() const {
  const std::array<std::uint64_t, kWords> words{seed, static_cast<std::uint64_t>(epoch), position,
                                                dataset_size, fingerprint};
  std::string bytes(kMagic);
  bytes.append(reinterpret_cast<const char*>(words.data()), sizeof(words));
  return bytes;
}

LoaderState LoaderState::from_bytes(std::string_view bytes) {
  std::array<std::uint64_t, kWords> words{};
  TORCH_CHECK(
      bytes.size() == kMagic.size() + sizeof(words) && bytes.substr(0, kMagic.size()) == kMagic,
      "LoaderState: these ", bytes.size(), " bytes are not the state of a loader");
  std::memcpy(words.data(), bytes.data() + kMagic.size(), sizeof(words));
  LoaderState state{words[0], static_cast<std::int64_t>(words[1]), words[2], words[3], words[4]};
  TORCH_CHECK(state.epoch >= 0, "LoaderState: the epoch is ", state.epoch,
              "; it must not be negative");
  return state;
}

}  // namespace lockstep::data
