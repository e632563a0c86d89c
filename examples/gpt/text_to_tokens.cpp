// SPDX-License-Identifier: BSD-3-Clause
// Makes the files that gpt reads of any text; its bytes are the tokens:
//   text_to_tokens TEXT FOLDER
// writes FOLDER/train.bin and FOLDER/val.bin, the last twentieth of the text. The format is that of
// llm.c: 256 numbers of 4 bytes in front (magic, version, tokens), then 2 bytes a token.
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr std::int32_t kMagic = 20240520;
constexpr std::int32_t kVersion = 1;  // of tokens of 2 bytes
constexpr std::size_t kValidationPart = 20;

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file) throw std::runtime_error(path.string() + ": cannot be read");
  return text;
}

void write(const std::filesystem::path& path, std::string_view text) {
  std::array<std::int32_t, 256> header{kMagic, kVersion, static_cast<std::int32_t>(text.size())};
  std::vector<std::uint16_t> tokens;
  tokens.reserve(text.size());
  for (const char byte : text) tokens.push_back(static_cast<unsigned char>(byte));
  // A training may have mapped the old file: that keeps its bytes when the new one takes its name.
  auto unfinished = path;
  unfinished += ".new";
  std::ofstream file(unfinished, std::ios::binary);
  file.write(reinterpret_cast<const char*>(header.data()), sizeof header);
  file.write(reinterpret_cast<const char*>(tokens.data()),
             static_cast<std::streamsize>(tokens.size() * sizeof(std::uint16_t)));
  file.close();
  if (!file) {
    std::error_code ignored;
    std::filesystem::remove(unfinished, ignored);
    throw std::runtime_error(path.string() + ": cannot be written");
  }
  std::filesystem::rename(unfinished, path);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: text_to_tokens TEXT FOLDER\n";
    return 2;
  }
  try {
    const std::filesystem::path folder(argv[2]);
    const auto text = read(argv[1]);
    if (text.size() >= (1U << 31)) throw std::runtime_error(std::string(argv[1]) + ": is too long");
    const auto training = text.size() - text.size() / kValidationPart;
    std::filesystem::create_directories(folder);
    write(folder / "train.bin", std::string_view(text).substr(0, training));
    write(folder / "val.bin", std::string_view(text).substr(training));
    std::cout << training << " tokens to train with, " << text.size() - training
              << " to validate\n";
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "text_to_tokens: " << error.what() << '\n';
    return 1;
  }
}
