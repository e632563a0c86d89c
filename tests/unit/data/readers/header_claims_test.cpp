// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/readers/cifar_dataset.h>
#include <lockstep/data/readers/idx_dataset.h>
#include <lockstep/data/readers/packed_records.h>
#include <lockstep/data/readers/tar_shards.h>
#include <lockstep/data/readers/token_file.h>
#include <zlib.h>

#include "files/bounded_view.h"
#include "support/tar_test_support.h"
#include "unit/data/readers/cheap_errors.h"

// Files of a few bytes whose headers claim gigabytes: an error, and next to no memory.
namespace lockstep::data {
namespace {

// The measure itself: memory that is used counts, memory that was given back as well.
TEST_F(HeaderClaims, AreSeenInThePeak) {
  const auto use = [] { std::vector<char>(std::size_t{64} << 20, 'x').clear(); };
  EXPECT_GE(peak_bytes_of(use), std::int64_t{60} << 20);
  EXPECT_LE(peak_bytes_of([] {}), kMostForAnError);
}

TEST_F(HeaderClaims, OfIdxFilesCostNothing) {
  const ByteVector plain{0, 0, 8, 3, 0, 0, 0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 4, 1, 2, 3};
  const auto packed = path("packed.gz");
  gzFile file = ::gzopen(packed.c_str(), "wb");
  ::gzwrite(file, plain.data(), static_cast<unsigned>(plain.size()));
  ::gzclose(file);
  for (const auto& name : {write("plain", plain), packed}) {
    expect_cheap_error([&] { IdxFile idx(name); }, "values of the dimensions in the header");
  }
  // No values, but steps between them that no number can hold.
  ByteVector strides{0, 0, 8, 4, 0, 0, 0, 0};
  append(strides, ByteVector(12, 0xFF));
  expect_cheap_error([&, name = write("strides", strides)] { IdxFile idx(name); },
                     "at byte 12: expected values of at most 8589934592 bytes in all");
  // A field of gzip's header that goes on for ever.
  ByteVector endless{0x1F, 0x8B, 8, 0x1C, 0, 0, 0, 0, 0, 3, 0xFF, 0xFF, 'x'};
  const auto name = write("endless.gz", endless);
  expect_cheap_error([&] { IdxFile idx(name); }, name);
}

TEST_F(HeaderClaims, OfTarHeadersCostNothing) {
  const auto ignore = [](const TarSample&) -> torch::data::Example<> { return {}; };
  const auto claims = [](ByteVector member, const std::string& size) {
    std::copy(size.begin(), size.end(), member.begin() + 124);
    fix_tar_checksum(member, 0);
    return member;
  };
  const std::string huge = std::string("\x80\0\0\0\0\0\0\x40", 8) + std::string(4, '\0');
  int number = 0;
  for (const auto& [members, part] : std::vector<std::pair<std::vector<ByteVector>, std::string>>{
           {{claims(tar_member("a.txt", "x"), "77777777777")}, "the content of 'a.txt'"},
           {{claims(tar_member("a.txt", "x"), huge)}, "the content of 'a.txt'"},
           {{claims(tar_member("L", "long", 'L'), "07777777777")}, "a long name of at most"},
           {{claims(tar_member("K", "long", 'K'), huge)}, "a long name of at most"},
           {{claims(tar_member("x", "long", 'x'), "07777777777")}, "an extended header of at most"},
           {{claims(tar_member("g", "long", 'g'), huge)}, "an extended header of at most"},
           {{tar_member("x", "1073741824 path=a\n", 'x'), tar_member("a.txt")}, "a record LENGTH"},
           {{tar_member("x", pax_record("size", "1099511627776"), 'x'), tar_member("a.txt")},
            "the content of 'a.txt'"}}) {
    const auto name = write(std::to_string(number++) + ".tar", tar_of(members));
    expect_cheap_error([&, file = name] { TarShards({file}, ignore); }, part);
  }
}

// An index that does not fit is made anew, without an error.
TEST_F(HeaderClaims, OfTarIndexesCostNothing) {
  const auto archive = write("a.tar", tar_of({tar_member("a.txt", "one")}));
  const auto open = [&] {
    const auto ignore = [](const TarSample&) -> torch::data::Example<> { return {}; };
    EXPECT_NO_THROW(
        EXPECT_EQ(TarShards({archive}, ignore, TarShardsOptions().side_index(true)).size(), 1U));
  };
  open();
  const auto good = read("a.tar.lockstep-index");
  for (std::size_t count = 24; count < 56; count += 8) {
    for (const std::uint64_t claim : {std::uint64_t{1} << 31, ~std::uint64_t{0}}) {
      auto bad = good;
      const auto claimed = little(claim, 8);
      std::copy(claimed.begin(), claimed.end(), bad.begin() + static_cast<std::ptrdiff_t>(count));
      const auto crc = little(::crc32(0, bad.data(), static_cast<uInt>(bad.size() - 4)), 4);
      std::copy(crc.begin(), crc.end(), bad.end() - 4);
      write("a.tar.lockstep-index", bad);
      EXPECT_LE(peak_bytes_of(open), kMostForAnError) << count;
    }
  }
}

TEST_F(HeaderClaims, OfPackedRecordsCostNothing) {
  PackedRecordsWriter writer(path("good"));
  writer.add({torch::ones({2, 3}), torch::tensor(1)});
  writer.finish();
  const auto good = read("good");
  // Sizes of the data, the number of records, the bytes of one.
  for (const std::size_t at : {24U, 32U, 160U, 168U, 176U}) {
    auto bad = good;
    const auto claim = little(std::uint64_t{1} << 40, 8);
    std::copy(claim.begin(), claim.end(), bad.begin() + static_cast<std::ptrdiff_t>(at));
    const auto crc = little(::crc32(0, bad.data(), 252), 4);
    std::copy(crc.begin(), crc.end(), bad.begin() + 252);
    const auto name = write("bad", bad);
    expect_cheap_error([&] { static_cast<void>(PackedRecords(name).get(0)); }, name + ": at byte");
  }
}

TEST_F(HeaderClaims, OfTokenFilesCostNothing) {
  for (const auto& [magic, version] : {std::pair{20240520U, 1U}, std::pair{20240801U, 7U}}) {
    ByteVector bytes;
    for (const auto value : {magic, version, 0x7FFFFFFFU}) append(bytes, little(value, 4));
    bytes.resize(1040);
    const auto name = write("tokens", bytes);
    const auto options = TokenFileOptions().block(1 << 30);
    expect_cheap_error([&] { static_cast<void>(TokenFile(name, options).get(0)); },
                       "the tokens that the header counts");
  }
}

TEST_F(HeaderClaims, OfNothingAreInCifarFiles) {
  const auto name = write("cifar", ByteVector(3072, 255));
  expect_cheap_error([&] { CifarDataset({name}, CifarLabels::Cifar10); }, name + ": at byte 0");
}

}  // namespace
}  // namespace lockstep::data
