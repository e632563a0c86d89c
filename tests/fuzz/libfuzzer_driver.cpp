// SPDX-License-Identifier: BSD-3-Clause
// Hands one target to libFuzzer, which looks at what code an input reaches. tests/fuzz/run.sh
// starts it:
//
//   LOCKSTEP_FUZZ_TARGET=tar reader_libfuzzer CORPUS [libFuzzer's options]
//
// The target's seeds go into the corpus first.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "fuzz/fuzz_target.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace lockstep::fuzz {
namespace {

// libFuzzer's interface has no place for it.
const FuzzTarget* chosen = nullptr;

[[noreturn]] void fail(const std::string& text) {
  std::fprintf(stderr, "fuzz: %s\n", text.c_str());
  std::exit(2);
}

const FuzzTarget& choose() {
  static const auto targets = fuzz_targets();
  const char* wanted = std::getenv("LOCKSTEP_FUZZ_TARGET");
  std::string names;
  for (const auto& target : targets) {
    if (wanted != nullptr && target.name == wanted) return target;
    names += " " + target.name;
  }
  fail("LOCKSTEP_FUZZ_TARGET must be one of" + names);
}

void write_seeds(const FuzzTarget& target, const std::filesystem::path& folder) {
  for (std::size_t i = 0; i < target.seeds.size(); ++i) {
    const auto& seed = target.seeds[i];
    if (!is_accepted(target, seed)) fail(target.name + " refuses its seed " + std::to_string(i));
    std::ofstream(folder / ("seed-" + std::to_string(i)), std::ios::binary)
        .write(reinterpret_cast<const char*>(seed.data()),
               static_cast<std::streamsize>(seed.size()));
  }
}

}  // namespace
}  // namespace lockstep::fuzz

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  using namespace lockstep::fuzz;
  chosen = &choose();
  const auto end = *argv + *argc;
  const auto folder = std::find_if(*argv + 1, end, [](const char* word) { return *word != '-'; });
  // Without a folder an input is being repeated, or libFuzzer is asked for its help.
  if (folder != end && std::filesystem::is_directory(*folder)) write_seeds(*chosen, *folder);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace lockstep::fuzz;
  is_accepted(*chosen, Bytes(data, data + size));
  return 0;
}

// Checksums are made right three times in four; else an input that changes what they guard would
// never get beyond them.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  using namespace lockstep::fuzz;
  size = LLVMFuzzerMutate(data, size, max_size);
  if (!chosen->repair || seed % 4 == 0) return size;
  Bytes bytes(data, data + size);
  chosen->repair(bytes);
  std::copy(bytes.begin(), bytes.end(), data);
  return bytes.size();
}
