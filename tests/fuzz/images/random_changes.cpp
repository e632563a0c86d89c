// SPDX-License-Identifier: BSD-3-Clause
// Stands in for libFuzzer where there is no clang: changes known files at random and feeds them to
// LLVMFuzzerTestOneInput. Prints what libFuzzer would, in short; a sanitizer ends the program.
//
//     PROGRAM SECONDS FOLDER    begins with the files of FOLDER
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

std::vector<Bytes> files_of(const char* folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.file_size() < 16'384) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> files;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return files;
}

Bytes changed(const std::vector<Bytes>& files, std::mt19937_64& random) {
  const auto below = [&](std::size_t limit) { return limit == 0 ? 0 : random() % limit; };
  Bytes bytes = files[below(files.size())];
  for (auto changes = 1 + below(6); changes > 0 && !bytes.empty(); --changes) {
    const auto at = below(bytes.size());
    const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    const auto length = std::min<std::size_t>(below(32), bytes.size() - at);
    switch (below(6)) {
      case 0:
        bytes[at] ^= static_cast<std::uint8_t>(1U << below(8));
        break;
      case 1:
        bytes[at] = static_cast<std::uint8_t>(random());
        break;
      case 2:
        bytes[at] = below(2) == 0 ? 0 : 0xFF;
        break;
      case 3:
        bytes.erase(place, place + static_cast<std::ptrdiff_t>(length));
        break;
      case 4: {
        const Bytes again(place, place + static_cast<std::ptrdiff_t>(length));
        bytes.insert(place, again.begin(), again.end());
        break;
      }
      default:
        if (below(4) == 0) bytes.resize(at);
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s SECONDS FOLDER\n", argv[0]);
    return 2;
  }
  const auto files = files_of(argv[2]);
  if (files.empty()) {
    std::fprintf(stderr, "%s: no file to begin with\n", argv[2]);
    return 1;
  }
  for (const auto& file : files) LLVMFuzzerTestOneInput(file.data(), file.size());
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(argv[1]));
  std::mt19937_64 random(1);
  std::uint64_t runs = 0;
  for (; std::chrono::steady_clock::now() < end; ++runs) {
    const auto bytes = changed(files, random);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%llu runs\n", static_cast<unsigned long long>(runs));
  return 0;
}
