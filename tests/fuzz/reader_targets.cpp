// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/loader/loader_state.h>
#include <lockstep/data/readers/cifar_dataset.h>
#include <lockstep/data/readers/idx_dataset.h>
#include <lockstep/data/readers/packed_records.h>
#include <lockstep/data/readers/tar_shards.h>
#include <lockstep/data/readers/token_file.h>
#include <torch/torch.h>
#include <zlib.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>

#include "data/readers/tar_index.h"
#include "files/bounded_view.h"
#include "fuzz/fuzz_target.h"
#include "support/tar_test_support.h"

namespace lockstep::fuzz {
namespace {

using data::append;
using data::ByteVector;
using data::little;

void require(bool claim, const char* what) {
  if (!claim) throw std::logic_error(what);
}

// First, middle and last sample.
template <class Dataset>
void use(const Dataset& dataset) {
  const auto size = dataset.size();
  require(size > 0, "an empty dataset was opened");
  for (const auto index : {std::size_t{0}, size / 2, size - 1}) {
    static_cast<void>(dataset.describe(index));
    const auto sample = dataset.get(index);
    static_cast<void>(sample.data.sum().template item<double>());
    static_cast<void>(sample.target.sum().template item<double>());
  }
}

FuzzTarget idx_target() {
  ByteVector images{0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 2};
  append(images, ByteVector(12, 200));
  ByteVector wide{0, 0, 0x0E, 1, 0, 0, 0, 2};
  append(wide, ByteVector(16, 0x3F));
  ByteVector packed(200);
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  stream.next_in = images.data();
  stream.avail_in = static_cast<unsigned>(images.size());
  stream.next_out = packed.data();
  stream.avail_out = static_cast<unsigned>(packed.size());
  deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return {"idx",
          {images, wide, packed},
          [](const ByteVector& input) {
            const data::IdxFile file(as_file(input), std::uint64_t{1} << 26);
            static_cast<void>(file.values().sum().item<double>());
          },
          {}};
}

FuzzTarget cifar_target() {
  ByteVector one(3073, 100);
  one[0] = 7;
  ByteVector two = one;
  append(two, one);
  ByteVector hundred(3074, 50);
  hundred[0] = 19;
  return {"cifar",
          {one, two, hundred},
          [](const ByteVector& input) {
            const auto labels = input.size() % 3074 == 0 ? data::CifarLabels::Cifar100Fine
                                                         : data::CifarLabels::Cifar10;
            use(data::CifarDataset({as_file(input)}, labels));
          },
          {}};
}

FuzzTarget token_target() {
  const auto llmc = [](std::uint32_t magic, std::uint32_t version, std::uint32_t width) {
    ByteVector bytes;
    for (const auto value : {magic, version, std::uint32_t{20}}) append(bytes, little(value, 4));
    bytes.resize(1024);
    append(bytes, ByteVector(std::size_t{20} * width, 3));
    return bytes;
  };
  return {
      "tokens",
      {llmc(20240520, 1, 2), llmc(20240801, 7, 4)},
      [](const ByteVector& input) {
        const auto path = as_file(input);
        // Bare files have next to nothing that could be wrong, so they come along.
        for (const auto format : {data::TokenFormat::BareUInt16, data::TokenFormat::BareUInt32}) {
          try {
            use(data::TokenFile(path, data::TokenFileOptions().block(3).stride(2).format(format)));
          } catch (const c10::Error&) {
          }
        }
        use(data::TokenFile(path,
                            data::TokenFileOptions().block(4).stride(1).vocabulary(1U << 26)));
      },
      {}};
}

FuzzTarget packed_target() {
  const auto packed = [](const torch::Tensor& sample, const torch::Tensor& target) {
    const auto path =
        std::filesystem::temp_directory_path() / ("fuzz-packed-" + std::to_string(::getpid()));
    data::PackedRecordsWriter writer(path.string());
    for (int i = 0; i < 3; ++i) writer.add({sample + i, target + i});
    writer.finish();
    std::ifstream file(path, std::ios::binary);
    ByteVector bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    std::filesystem::remove(path);
    return bytes;
  };
  return {"packed",
          {packed(torch::arange(15, torch::kShort).view({3, 5}), torch::tensor({1, 2})),
           packed(torch::ones({2, 2}), torch::zeros({0, 4}))},
          [](const ByteVector& input) {
            const data::PackedRecords records(as_file(input));
            use(records);
            try {
              records.verify();
            } catch (const c10::Error&) {
            }
          },
          [](ByteVector& input) {
            if (input.size() < 256) return;
            const auto crc = little(::crc32(0, input.data(), 252), 4);
            std::copy(crc.begin(), crc.end(), input.begin() + 252);
          }};
}

torch::data::Example<> count_bytes(const data::TarSample& sample) {
  std::int64_t bytes = 0;
  std::int64_t sum = 0;
  for (const auto& [name, content] : sample.members) {
    bytes += static_cast<std::int64_t>(content.size());
    for (const auto byte : content) sum += std::to_integer<int>(byte);
  }
  return {torch::tensor(bytes), torch::tensor(sum)};
}

// A name that the reader gives away leads nowhere else.
void check_names(const data::TarShards& shards) {
  for (std::size_t i = 0; i < shards.size(); ++i) {
    std::string name("/");
    name.append(shards.sample(i).key).append("/");
    require(name.find("/../") == std::string::npos && name.find("//") != 0, "an unsafe name");
    require(name.find('\0') == std::string::npos, "a name with a zero byte");
  }
}

std::vector<ByteVector> archives() {
  using data::pax_record;
  using data::tar_member;
  const std::string far(150, 'n');
  return {
      data::tar_of({tar_member("a/", "", '5'), tar_member("a/1.jpg", std::string(600, 'j')),
                    tar_member("a/1.cls", "7"), tar_member("a/2.jpg", "")}),
      data::tar_of(
          {tar_member("L", far + ".txt" + std::string(1, '\0'), 'L'), tar_member("n", "gnu"),
           tar_member("x", pax_record("path", "p/" + far + ".txt") + pax_record("size", "3"), 'x'),
           tar_member("m", "pax"), tar_member("g", pax_record("comment", "c"), 'g'),
           tar_member("2.txt", "x")})};
}

FuzzTarget tar_target() {
  return {"tar", archives(),
          [](const ByteVector& input) {
            const data::TarShards shards({as_file(input)}, count_bytes);
            use(shards);
            check_names(shards);
          },
          [](ByteVector& input) {
            // Every block that could be a header.
            for (std::size_t at = 0; at + 512 <= input.size(); at += 512) {
              if (std::equal(input.begin() + static_cast<std::ptrdiff_t>(at) + 257,
                             input.begin() + static_cast<std::ptrdiff_t>(at) + 261, "usta")) {
                data::fix_tar_checksum(input, at);
              }
            }
          }};
}

// The index beside an archive. Its folder goes with the target.
FuzzTarget tar_index_target() {
  struct Folder {
    Folder() {
      std::string pattern = (std::filesystem::temp_directory_path() / "fuzz-XXXXXX").string();
      require(::mkdtemp(pattern.data()) != nullptr, "no folder");
      path = pattern;
    }
    ~Folder() { std::filesystem::remove_all(path); }
    std::filesystem::path path;
  };
  const auto write = [](const std::filesystem::path& path, const ByteVector& bytes) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  };
  const auto folder = std::make_shared<Folder>();
  const auto archive = folder->path / "a.tar";
  const auto index = folder->path / "a.tar.lockstep-index";
  write(archive, archives()[0]);
  const files::BoundedView view(archive.string());
  require(data::detail::TarIndex::of(view).save(view), "no index");
  std::ifstream file(index, std::ios::binary);
  const ByteVector good{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return {"tar_index",
          {good},
          [=](const ByteVector& input) {
            write(folder->path / "a.tar.lockstep-index", input);
            // One that is believed must be safe to use; one that is not is no error.
            const files::BoundedView opened((folder->path / "a.tar").string());
            const auto loaded = data::detail::TarIndex::load(opened);
            TORCH_CHECK(loaded, "not believed");
            for (std::size_t i = 0; i < loaded->samples.size(); ++i) {
              static_cast<void>(loaded->key(i));
              for (const auto& member : loaded->members_of(i)) {
                static_cast<void>(opened.bytes(member.offset, member.size, "a member"));
                static_cast<void>(loaded->extensions.at(member.extension));
              }
            }
          },
          [](ByteVector& input) {
            if (input.size() < 4) return;
            const auto crc =
                little(::crc32(0, input.data(), static_cast<unsigned>(input.size() - 4)), 4);
            std::copy(crc.begin(), crc.end(), input.end() - 4);
          }};
}

FuzzTarget loader_state_target() {
  const auto seed = [](const data::LoaderState& state) {
    const auto text = state.to_bytes();
    return ByteVector(text.begin(), text.end());
  };
  return {"loader_state",
          {seed({1, 2, 3, 4, 5}), seed({~0ULL, 1, 0, ~0ULL, 7})},
          [](const ByteVector& input) {
            const std::string text(input.begin(), input.end());
            require(data::LoaderState::from_bytes(text).to_bytes() == text,
                    "two texts for the same state");
          },
          [](ByteVector& input) {
            if (input.size() < 8) return;
            char digits[9];
            std::snprintf(digits, sizeof(digits), "%08lx",
                          ::crc32(0, input.data(), static_cast<unsigned>(input.size() - 8)));
            std::copy_n(digits, 8, input.end() - 8);
          }};
}

}  // namespace

std::vector<FuzzTarget> reader_targets() {
  return {idx_target(), cifar_target(),     token_target(),       packed_target(),
          tar_target(), tar_index_target(), loader_state_target()};
}

}  // namespace lockstep::fuzz
