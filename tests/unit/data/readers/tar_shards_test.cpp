// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/readers/tar_shards.h>

#include <array>
#include <cstdio>
#include <map>
#include <memory>
#include <sstream>

#include "data/readers/tar_index.h"
#include "data/readers/tar_reader.h"
#include "support/tar_test_support.h"

namespace lockstep::data {
namespace {

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Data: the bytes of "bin"; target: the number in "cls".
torch::data::Example<> decode(const TarSample& sample) {
  const auto bytes = sample.at("bin");
  auto data = torch::empty({static_cast<std::int64_t>(bytes.size())}, torch::kByte);
  std::copy(bytes.begin(), bytes.end(), static_cast<std::byte*>(data.mutable_data_ptr()));
  return {data, torch::tensor(static_cast<std::int64_t>(std::stoll(text_of(sample.at("cls")))))};
}

class Tar : public ReaderTest {
 protected:
  using Samples = std::vector<std::pair<std::string, std::map<std::string, std::string>>>;

  [[nodiscard]] static Samples samples_of(const TarShards& shards) {
    Samples all;
    for (std::size_t i = 0; i < shards.size(); ++i) {
      const auto sample = shards.sample(i);
      all.emplace_back(std::string(sample.key), std::map<std::string, std::string>());
      for (const auto& [name, bytes] : sample.members) {
        all.back().second[std::string(name)] = text_of(bytes);
      }
    }
    return all;
  }
  std::string write_tar(const std::string& name, const std::vector<ByteVector>& members) const {
    return write(name, tar_of(members));
  }
  // Opening an archive of these members must fail, naming it and all of `parts`.
  void expect_refused(const std::vector<ByteVector>& members,
                      std::vector<std::string> parts) const {
    const auto file = write_tar("refused.tar", members);
    parts.push_back(file);
    expect_error([&] { TarShards({file}, decode); }, parts);
  }
};

TEST_F(Tar, GroupsMembersAsWebDatasetDoes) {
  const auto one = write_tar("one.tar", {
                                            tar_member("a/", "", '5'),
                                            tar_member("a/0001.jpg", "jpeg"),
                                            tar_member("a/0001.cls", "7"),
                                            tar_member("README", "passed over"),
                                            tar_member(".hidden", "passed over"),
                                            tar_member("a/0002.seg.PNG", "mask"),
                                            tar_member("a/0002.jpg", ""),
                                            tar_member("./a.b/0003.JPG", "third"),
                                            tar_member("a/0001.txt", "again"),
                                        });
  const auto two = write_tar("two.tar", {tar_member("last.txt", "end")});
  const TarShards shards({one, two}, decode);
  EXPECT_EQ(samples_of(shards), (Samples{{"a/0001", {{"jpg", "jpeg"}, {"cls", "7"}}},
                                         {"a/0002", {{"seg.png", "mask"}, {"jpg", ""}}},
                                         {"./a.b/0003", {{"jpg", "third"}}},
                                         {"a/0001", {{"txt", "again"}}},
                                         {"last", {{"txt", "end"}}}}));
  EXPECT_EQ(shards.describe(4), two + ": sample 'last': txt at byte 512");
  EXPECT_EQ(shards.describe(0), one + ": sample 'a/0001': jpg at byte 1024, cls at byte 2048");
}

// As webdataset 1.0.2 takes them: base_plus_ext and skip_meta of its tariterators.py.
TEST_F(Tar, PassesOverFilesAboutTheArchive) {
  const auto file = write_tar("meta.tar", {
                                              tar_member("__meta__/info.json", "{}"),
                                              tar_member("__meta__/deep/er.json", "{}"),
                                              tar_member("__name.txt__", "all of it"),
                                              tar_member("__a__b__/1.txt", "any letters"),
                                              tar_member("____/1.txt", "none as well"),
                                              tar_member("__init__.py", "not of this kind"),
                                              tar_member("___/1.txt", "nor this"),
                                              tar_member("__half/1.txt", "nor this"),
                                              tar_member("a/__meta__/1.txt", "nor below others"),
                                              tar_member("./__meta__/1.txt", "nor here"),
                                          });
  EXPECT_EQ(samples_of(TarShards({file}, decode)),
            (Samples{{"__init__", {{"py", "not of this kind"}}},
                     {"___/1", {{"txt", "nor this"}}},
                     {"__half/1", {{"txt", "nor this"}}},
                     {"a/__meta__/1", {{"txt", "nor below others"}}},
                     {"./__meta__/1", {{"txt", "nor here"}}}}));
}

TEST_F(Tar, KeysAreNamesAsTheyAreWrittenThere) {
  const auto file = write_tar(
      "dots.tar", {tar_member("./", "", '5'), tar_member("./1.txt", "a"), tar_member("1.cls", "b"),
                   tar_member("././2.txt", "c"), tar_member(".//3.txt", "d")});
  EXPECT_EQ(samples_of(TarShards({file}, decode)), (Samples{{"./1", {{"txt", "a"}}},
                                                            {"1", {{"cls", "b"}}},
                                                            {"././2", {{"txt", "c"}}},
                                                            {".//3", {{"txt", "d"}}}}));
}

TEST_F(Tar, TakesArchivesWithoutAnEndMark) {
  const auto good = tar_of({tar_member("a.txt", "hello"), tar_member("b.txt", "x")});
  const Samples expected{{"a", {{"txt", "hello"}}}, {"b", {{"txt", "x"}}}};
  for (const std::size_t size : {2048U, 2049U, 2300U, 2559U, 2560U, 3071U, 3072U}) {
    const auto end = good.begin() + static_cast<std::ptrdiff_t>(size);
    const auto file = write("cut.tar", ByteVector(good.begin(), end));
    EXPECT_EQ(samples_of(TarShards({file}, decode)), expected) << size;
  }
  // The end of a name that began, or of a header, is another thing.
  auto named = tar_of({tar_member("a.txt", "hello"), tar_member("L", "long.txt", 'L')});
  named.resize(2048);
  expect_error([&] { TarShards({write("named.tar", named)}, decode); },
               {"at byte 2048", "the file that the header before is about"});
}

TEST_F(Tar, DecodesInWorkers) {
  std::vector<ByteVector> members;
  for (int i = 0; i < 10; ++i) {
    members.push_back(tar_member(std::to_string(i) + ".bin", std::string(5, static_cast<char>(i))));
    members.push_back(tar_member(std::to_string(i) + ".cls", std::to_string(i * i)));
  }
  const TarShards shards({write_tar("data.tar", members)}, decode);
  ASSERT_EQ(shards.size(), 10U);
  EXPECT_TRUE(torch::equal(shards.get(3).data, torch::full({5}, 3, torch::kByte)));
  EXPECT_EQ(shards.get(3).target.item<std::int64_t>(), 9);
  expect_same_in_workers(shards);
}

TEST_F(Tar, ReadsEveryWayToWriteNamesAndSizes) {
  const std::string far(180, 'n');
  std::vector<ByteVector> members{
      tar_member("././@LongLink", "gnu/" + far + ".txt" + std::string(1, '\0'), 'L'),
      tar_member("gnu/nnn", "by GNU"),
      tar_member("PaxHeaders/x",
                 pax_record("mtime", "1.5") + pax_record("path", "pax/" + far + ".txt"), 'x'),
      tar_member("pax/nnn", "by pax"),
      tar_member("pax_global_header", pax_record("comment", "x"), 'g'),
      tar_member("seven.txt", "type 7", '7'),
      tar_member("nul.txt", "type NUL", '\0'),
      tar_member("pax", pax_record("size", "4"), 'x'),
  };
  auto sized = tar_member("sized.txt", "abcd");
  std::fill_n(sized.begin() + 124, 12, std::uint8_t{'0'});  // the extended header knows better
  sized[135] = ' ';
  fix_tar_checksum(sized, 0);
  members.push_back(sized);
  auto binary = tar_member("binary.txt", "hello");
  std::fill_n(binary.begin() + 124, 12, std::uint8_t{0});
  binary[124] = 0x80;
  binary[135] = 5;
  fix_tar_checksum(binary, 0);
  members.push_back(binary);
  auto prefixed = tar_member("name.txt", "with prefix");
  prefixed[345] = 'p';
  fix_tar_checksum(prefixed, 0);
  members.push_back(prefixed);
  auto old = tar_member("old.txt", "of before ustar");
  std::fill_n(old.begin() + 257, 255, std::uint8_t{0});
  fix_tar_checksum(old, 0);
  members.push_back(old);
  auto with_sign = tar_member("sign\xC3\xA4.txt", "checksum of signed bytes");
  {
    int sum = 0;
    for (std::size_t i = 0; i < 512; ++i) {
      sum += i >= 148 && i < 156 ? ' ' : static_cast<std::int8_t>(with_sign[i]);
    }
    char digits[8];
    std::snprintf(digits, sizeof(digits), "%06o", static_cast<unsigned>(sum));
    std::copy_n(digits, 7, with_sign.begin() + 148);
  }
  members.push_back(with_sign);
  EXPECT_EQ(samples_of(TarShards({write_tar("all.tar", members)}, decode)),
            (Samples{{"gnu/" + far, {{"txt", "by GNU"}}},
                     {"pax/" + far, {{"txt", "by pax"}}},
                     {"seven", {{"txt", "type 7"}}},
                     {"nul", {{"txt", "type NUL"}}},
                     {"sized", {{"txt", "abcd"}}},
                     {"binary", {{"txt", "hello"}}},
                     {"p/name", {{"txt", "with prefix"}}},
                     {"old", {{"txt", "of before ustar"}}},
                     {"sign\xC3\xA4", {{"txt", "checksum of signed bytes"}}}}));
}

// Python's tarfile writes archives in three formats, and says where each file lies in them. One of
// them loses its end mark before.
TEST_F(Tar, EqualsPythonsTarfile) {
  const std::string program = R"(
import io, sys, tarfile
folder = sys.argv[1]
print("ready")
for name, kind in ("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT):
    path = f"{folder}/python_{name}.tar"
    with tarfile.open(path, "w", format=kind) as archive:
        info = tarfile.TarInfo("folder"); info.type = tarfile.DIRTYPE; archive.addfile(info)
        for i, size in enumerate((0, 1, 511, 512, 513, 5000, 20000)):
            for length in (3, 60, 97, 98, 99, 100, 101, 140, 240, 1000):
                if kind == tarfile.USTAR_FORMAT and length > 200: continue
                stem = "d" * min(length, 90) + "/" + "n" * (length - 90) if length > 90 else "n" * length
                if length > 200 and kind != tarfile.USTAR_FORMAT: stem = "n" * length
                extra = "\u00e4\u4e16" if kind == tarfile.PAX_FORMAT and i == 2 else ""
                info = tarfile.TarInfo(f"{stem}{extra}{i}.bin"); info.size = size
                if kind == tarfile.PAX_FORMAT: info.mtime = 1.25
                archive.addfile(info, io.BytesIO(bytes((i * 31 + k) % 256 for k in range(size))))
        info = tarfile.TarInfo("./last.bin"); info.size = 5
        archive.addfile(info, io.BytesIO(b"hello"))
        end = archive.offset
    if name == "gnu":  # no end mark
        with open(path, "r+b") as file: file.truncate(end)
    with tarfile.open(path) as archive:
        files = [m for m in archive.getmembers() if m.isfile()]
    print(len(files))
    for m in files: print(m.name, m.offset_data, m.size)
)";
  write("program.py", text_bytes(program));
  const std::string command = std::string("\"") + LOCKSTEP_PYTHON + "\" \"" + path("program.py") +
                              "\" \"" + folder_.string() + "\" 2>&1";
  std::string output;
  {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(::popen(command.c_str(), "r"),
                                                               ::pclose);
    std::array<char, 4096> buffer{};
    while (pipe && std::fgets(buffer.data(), buffer.size(), pipe.get()) != nullptr) {
      output += buffer.data();
    }
  }
  std::istringstream lines(output);
  std::string word;
  if (!(lines >> word) || word != "ready") GTEST_SKIP() << "no Python to compare with: " << output;
  for (const std::string name : {"ustar", "gnu", "pax"}) {
    std::size_t count = 0;
    ASSERT_TRUE(lines >> count) << output;
    EXPECT_GT(count, 50U);
    const files::BoundedView archive(path("python_" + name + ".tar"));
    TarReader reader(archive);
    for (std::size_t i = 0; i < count; ++i) {
      std::string member_name;
      std::uint64_t offset = 0;
      std::uint64_t size = 0;
      ASSERT_TRUE(lines >> member_name >> offset >> size);
      const auto member = reader.next();
      ASSERT_TRUE(member.has_value());
      EXPECT_EQ(member->name, member_name);
      EXPECT_EQ(member->offset, offset);
      EXPECT_EQ(member->size, size);
    }
    EXPECT_FALSE(reader.next().has_value());
  }
}

TEST_F(Tar, RefusesWhatIsNoOrdinaryFile) {
  expect_refused({tar_member("a.txt", "x"), tar_member("link.txt", "", '2')},
                 {"at byte 1180", "an ordinary file or a folder", "a symbolic link, 'link.txt'"});
  expect_refused({tar_member("hard.txt", "", '1')}, {"a hard link, 'hard.txt'"});
  expect_refused({tar_member("c.txt", "", '3')}, {"a device, 'c.txt'"});
  expect_refused({tar_member("b.txt", "", '4')}, {"a device"});
  expect_refused({tar_member("p.txt", "", '6')}, {"a pipe"});
  expect_refused({tar_member("s.txt", "", 'S')}, {"a sparse file"});
  expect_refused({tar_member("z.txt", "", 'Z')}, {"something unknown, 'z.txt'"});
  expect_refused({tar_member("x", pax_record("GNU.sparse.major", "1"), 'x'), tar_member("s.txt")},
                 {"no sparse files"});
  expect_refused({tar_member("k", std::string(300, 'k'), 'K'), tar_member("link.txt", "", '2')},
                 {"a symbolic link"});
}

TEST_F(Tar, RefusesNamesThatLeadElsewhere) {
  expect_refused({tar_member("/etc/passwd.txt", "x")},
                 {"at byte 0", "a relative name", "'/etc/passwd.txt'"});
  expect_refused({tar_member(".//etc/x.txt", "x"), tar_member("../x.txt", "x")},
                 {"at byte 1024", "a name without ..", "'../x.txt'"});
  expect_refused({tar_member("a/../../x.txt", "x")}, {"a name without ..", "'a/../../x.txt'"});
  expect_refused({tar_member("a/..", "x")}, {"a name without .."});
  expect_refused({tar_member("a/../", "", '5')}, {"a name without .."});
  expect_refused({tar_member("L", "../long.txt", 'L'), tar_member("good.txt")},
                 {"a name without ..", "'../long.txt'"});
  expect_refused({tar_member("x", pax_record("path", "/pax.txt"), 'x'), tar_member("good.txt")},
                 {"a relative name", "'/pax.txt'"});
  expect_refused({tar_member("x", pax_record("path", std::string("a\0b.txt", 7)), 'x'),
                  tar_member("good.txt")},
                 {"without zero bytes", "'a\\x00b.txt'"});
  expect_refused({tar_member("../line\nbreak.txt", "x")}, {"'../line\\x0abreak.txt'"});
  const TarShards fine({write_tar("fine.tar", {tar_member("a/..b.c/x..txt", "x")})}, decode);
  EXPECT_EQ(fine.sample(0).key, "a/..b.c/x");
}

TEST_F(Tar, NamesWhatIsWrongAndWhere) {
  const auto opens = [this](const ByteVector& bytes) {
    const auto file = write("bad.tar", bytes);
    return [=] { TarShards({file}, decode); };
  };
  const auto changed = [](std::size_t at, const std::string& text) {
    auto archive = tar_of({tar_member("a.txt", "hello"), tar_member("b.txt", "x")});
    std::copy(text.begin(), text.end(), archive.begin() + static_cast<std::ptrdiff_t>(at));
    fix_tar_checksum(archive, at / 512 * 512);
    return archive;
  };
  const auto good = tar_of({tar_member("a.txt", "hello"), tar_member("b.txt", "x")});
  expect_error([this] { TarShards({path("missing.tar")}, decode); },
               {"missing.tar", "cannot be opened"});
  expect_error(opens({}), {"at byte 0", "is it truncated?", "the end of the file"});
  expect_error(opens(ByteVector(100, 0)), {"at byte 100", "is it truncated?"});
  expect_error(opens(ByteVector(good.begin(), good.begin() + 1500)), {"at byte 1500", "truncated"});
  expect_error(opens(ByteVector(good.begin(), good.begin() + 515)),
               {"at byte 515", "the content of 'a.txt' (5 bytes from offset 512)"});
  expect_error(opens(ByteVector(good.begin(), good.begin() + 700)),
               {"at byte 700", "512 bytes from"});
  auto damaged = good;
  damaged[1024] ^= 1;
  expect_error(opens(damaged), {"at byte 1172", "the checksum of a tar header", "a damaged one"});
  expect_error(opens(text_bytes(std::string(600, 'x'))), {"at byte 148", "no tar header"});
  auto gzip = ByteVector(600, 1);
  gzip[0] = 0x1F;
  gzip[1] = 0x8B;
  expect_error(opens(gzip), {"at byte 0", "an uncompressed tar archive", "found gzip (unpack it"});
  gzip.resize(50);  // not even a header's length
  expect_error(opens(gzip), {"found gzip (unpack it once, as gunzip does)"});
  expect_error(opens(text_bytes("BZh9" + std::string(600, 'x'))), {"found bzip2"});
  expect_error(opens(text_bytes("\xFD" + std::string("7zXZ\0", 6) + std::string(600, 'x'))),
               {"found xz"});
  expect_error(opens(text_bytes("\x28\xB5\x2F\xFD" + std::string(600, 'x'))), {"found zstd"});
  const TarShards named({write("named.tar", tar_of({tar_member("BZh9.txt", "x")}))}, decode);
  EXPECT_EQ(named.sample(0).key, "BZh9");
  auto joined = good;
  append(joined, good);
  expect_error(opens(joined), {"at byte 3072", "only zeros behind the end", "joined"});
  auto tail = good;
  tail.push_back('x');
  expect_error(opens(tail), {"at byte 3072", "only zeros"});
  expect_error(opens(changed(124, "0000000000x")), {"at byte 124", "a size", "'0000000000x"});
  expect_error(opens(changed(124, "           ")), {"at byte 124", "a size"});
  expect_error(opens(changed(124, "-0000000005")), {"at byte 124", "a size"});
  expect_error(opens(changed(124, std::string(12, '\xFF'))), {"at byte 124", "a size"});
  expect_error(opens(changed(124, "77777777777")), {"8589934591 bytes from offset 512"});
  expect_error(opens(changed(124, "\x80" + std::string(2, '\0') + "\x01" + std::string(8, '\0'))),
               {"at byte 124", "a size"});
  expect_error(opens(changed(124, std::string("\x80\0\0\0", 4) + std::string(8, '\xFF'))),
               {"18446744073709551615 bytes from offset 512"});
  expect_error(opens(changed(156, "5")), {"no content of the folder", "5 bytes"});
  const auto with_pax = [](const std::string& records) {
    return tar_of({tar_member("x", records, 'x'), tar_member("a.txt", "hello")});
  };
  expect_error(opens(with_pax("hello")), {"at byte 512", "a record LENGTH KEY=VALUE", "'hello'"});
  expect_error(opens(with_pax("99 path=a\n")), {"at byte 512", "a record"});
  expect_error(opens(with_pax("99999999999999999999999 path=a\n")), {"a record"});
  expect_error(opens(with_pax("0 path=a\n")), {"a record"});
  expect_error(opens(with_pax("-5 path=a\n")), {"a record"});
  expect_error(opens(with_pax("9 path=ab")), {"a record"});
  expect_error(opens(with_pax("9 pathab\n")), {"a record with an equals sign"});
  expect_error(opens(with_pax(pax_record("size", "5x"))), {"a size"});
  expect_error(opens(with_pax(pax_record("size", "99999999999999999999"))), {"a size"});
  expect_error(opens(with_pax(pax_record("size", "18446744073709551615"))),
               {"18446744073709551615 bytes from offset 1536"});
  expect_error(opens(tar_of({tar_member("g", pax_record("path", "a.txt"), 'g')})),
               {"no name or size for all files"});
  expect_error(opens(tar_of({tar_member("x", pax_record("path", "a.txt"), 'x')})),
               {"the file that the header before is about", "the end of the archive"});
  auto long_name = tar_member("L", std::string(600, 'n'), 'L');
  std::copy_n("00077777777", 11, long_name.begin() + 124);
  fix_tar_checksum(long_name, 0);
  expect_error(opens(tar_of({long_name})), {"at byte 124", "a long name of at most 1048576 bytes"});
  expect_refused({tar_member("a.txt", "1"), tar_member("a.TXT", "2")},
                 {"one member with the extension 'txt' in sample 'a'", "a second one, 'a.TXT'"});
  std::vector<ByteVector> members;
  for (int i = 0; i < 1000; ++i) members.push_back(tar_member("many." + std::to_string(i)));
  const TarShards many({write_tar("many.tar", members)}, decode);
  EXPECT_EQ(many.sample(0).members.size(), 1000U);
  members.push_back(tar_member("many.last"));
  expect_refused(members, {"at byte 512512", "at most 1000 members in sample 'many'",
                           "one more, 'many.last'"});
}

TEST_F(Tar, RefusesBadArguments) {
  const auto empty = write_tar("empty.tar", {});
  expect_error([&] { TarShards({empty}, decode); }, {empty, "holds no sample"});
  expect_error([&] { TarShards({empty, empty}, decode); }, {"nor do the other archives"});
  expect_error([] { TarShards({}, decode); }, {"no archives are given"});
  expect_error([&] { TarShards({empty}, nullptr); }, {"no decoder is given"});
  const TarShards shards({empty, write_tar("a.tar", {tar_member("a.txt", "x")}), empty}, decode);
  ASSERT_EQ(shards.size(), 1U);
  EXPECT_EQ(shards.sample(0).key, "a");
  expect_error([&] { static_cast<void>(shards.sample(1)); }, {"index 1 is not below the size 1"});
  expect_error([&] { static_cast<void>(shards.get(0)); },
               {"sample 'a' has no member 'bin'; it has 'txt'"});
}

TEST_F(Tar, SamplesOutliveWhatOpenedThem) {
  auto shards = std::make_unique<TarShards>(
      std::vector<std::string>{write_tar("a.tar", {tar_member("a.txt", "kept")})}, decode);
  const auto copy = *shards;
  const auto sample = shards->sample(0);
  shards.reset();
  std::filesystem::remove(path("a.tar"));
  EXPECT_EQ(text_of(sample.at("txt")), "kept");
}

class TarSideIndex : public Tar {
 protected:
  [[nodiscard]] TarShards open() const {
    return {{path("a.tar")}, decode, TarShardsOptions().side_index(true)};
  }
};

TEST_F(TarSideIndex, IsWrittenAndReadBack) {
  write_tar("a.tar", {tar_member("k/1.txt", "one"), tar_member("k/1.cls", "1"),
                      tar_member("k/2.txt", "two")});
  const auto first = samples_of(open());
  EXPECT_EQ(files(), (std::vector<std::string>{"a.tar", "a.tar.lockstep-index"}));
  EXPECT_EQ(samples_of(open()), first);
  // It is really used: the headers are not looked at again.
  const auto time = std::filesystem::last_write_time(path("a.tar"));
  auto bytes = read("a.tar");
  bytes[0] = 'X';
  write("a.tar", bytes);
  std::filesystem::last_write_time(path("a.tar"), time);
  EXPECT_EQ(samples_of(open()), first);
  EXPECT_THROW(TarShards({path("a.tar")}, decode), c10::Error);
}

TEST_F(TarSideIndex, IsMadeAnewWhenTheArchiveIsAnother) {
  write_tar("a.tar", {tar_member("old.txt", "one")});
  static_cast<void>(open());
  // Another size, then the same size at another time.
  write_tar("a.tar", {tar_member("new.txt", "one"), tar_member("two.txt", "2")});
  EXPECT_EQ(open().size(), 2U);
  EXPECT_EQ(open().sample(0).key, "new");
  write_tar("a.tar", {tar_member("xxx.txt", "one"), tar_member("two.txt", "2")});
  const auto later = std::filesystem::last_write_time(path("a.tar")) + std::chrono::seconds(5);
  std::filesystem::last_write_time(path("a.tar"), later);
  EXPECT_EQ(open().sample(0).key, "xxx");
}

TEST_F(TarSideIndex, DamageOnlyCostsTime) {
  write_tar("a.tar", {tar_member("a.txt", "one"), tar_member("b.txt", "two")});
  const auto expected = samples_of(open());
  const auto good = read("a.tar.lockstep-index");
  for (std::size_t i = 0; i < good.size(); ++i) {
    auto bad = good;
    bad[i] ^= 0x41;
    write("a.tar.lockstep-index", bad);
    ASSERT_EQ(samples_of(open()), expected) << "byte " << i;
    EXPECT_EQ(read("a.tar.lockstep-index"), good) << "the damaged index stays";
    write("a.tar.lockstep-index",
          ByteVector(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(i)));
    ASSERT_EQ(samples_of(open()), expected) << "cut at " << i;
  }
}

// Whoever can write there can also write a checksum that fits.
TEST_F(TarSideIndex, LiesAreNotBelieved) {
  write_tar("a.tar", {tar_member("a.txt", "one"), tar_member("b.txt", "two")});
  const auto expected = samples_of(open());
  const auto good = read("a.tar.lockstep-index");
  for (std::size_t i = 24; i + 4 < good.size(); ++i) {
    for (const unsigned value : {0x00U, 0x01U, 0x7FU, 0xFFU}) {
      auto bad = good;
      bad[i] = static_cast<std::uint8_t>(value);
      std::vector<std::byte> body(bad.size() - 4);
      std::memcpy(body.data(), bad.data(), body.size());
      const auto crc = little(files::crc32_of(body), 4);
      std::copy(crc.begin(), crc.end(), bad.end() - 4);
      write("a.tar.lockstep-index", bad);
      for (const auto& [key, members] : samples_of(open())) {
        for (const auto& [name, bytes] : members) EXPECT_LE(bytes.size(), 4096U);
      }
    }
  }
  EXPECT_EQ(expected.size(), 2U);
}

TEST_F(TarSideIndex, IsNotNeeded) {
  write_tar("a.tar", {tar_member("a.txt", "one")});
  std::filesystem::create_directory(path("a.tar.lockstep-index"));  // cannot be read or replaced
  EXPECT_EQ(open().size(), 1U);
  EXPECT_EQ(files(), (std::vector<std::string>{"a.tar", "a.tar.lockstep-index"}));
}

}  // namespace
}  // namespace lockstep::data
