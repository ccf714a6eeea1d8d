// Compiles HLSL in Wine with DirectX's compilers, without a file for each result: dxc.exe DLL PROFILE FLAGS…, each line on stdin a
// file and its entry point. A line on stdout for each: "ok", with " dot" where the code has a dot product of bytes, or "error" and the text.
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The parts of dxcapi.h and d3dcompiler.h that are used: interfaces as tables of functions, in the order of those headers.
typedef struct { void **table; } Object;
typedef struct { const void *text; SIZE_T size; UINT encoding; } Buffer;
typedef HRESULT (WINAPI *Create)(const GUID *, const GUID *, void **);
typedef HRESULT (WINAPI *Compile)(Object *, const Buffer *, const WCHAR **, UINT, void *, const GUID *, void **);
typedef HRESULT (WINAPI *Disassemble)(Object *, const Buffer *, const GUID *, void **);
typedef HRESULT (WINAPI *Status)(Object *, HRESULT *);
typedef HRESULT (WINAPI *Output)(Object *, int, const GUID *, void **, void **);
typedef void *(WINAPI *Pointer)(Object *);
typedef SIZE_T (WINAPI *Size)(Object *);
typedef ULONG (WINAPI *Release)(Object *);
typedef HRESULT (WINAPI *Fxc)(const void *, SIZE_T, const char *, const void *, void *, const char *, const char *, UINT, UINT,
                              Object **, Object **);

static const GUID COMPILER_CLASS = {0x73e22d93, 0xe6ce, 0x47f3, {0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0}};
static const GUID COMPILER = {0x228b4687, 0x5a6a, 0x4730, {0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54}};
static const GUID RESULT = {0x58346cda, 0xdde7, 0x4497, {0x94, 0x61, 0x6f, 0x87, 0xaf, 0x5e, 0x06, 0x59}};
static const GUID BYTES = {0x8ba5fb08, 0x5195, 0x40e2, {0xac, 0x58, 0x0d, 0x98, 0x9c, 0x3a, 0x01, 0x02}};
enum { OBJECT = 1, ERRORS = 2, DISASSEMBLY = 5, UTF8 = 65001 };

static void *pointer(Object *blob) { return ((Pointer)blob->table[3])(blob); }
static SIZE_T size(Object *blob) { return ((Size)blob->table[4])(blob); }
static void release(Object *object) { if (object) ((Release)object->table[2])(object); }

// The text without line breaks, and not all of it: FXC's begins with warnings.
static void say_error(const char *text, SIZE_T length) {
  const char *first = strstr(text, "error X");
  if (first) { length -= first - text; text = first; }
  printf("error ");
  for (SIZE_T i = 0; i < length && i < 400 && text[i]; i++) putchar(text[i] == '\n' || text[i] == '\r' ? ' ' : text[i]);
  putchar('\n');
}

static int contains(const char *text, SIZE_T length, const char *word) {
  SIZE_T n = strlen(word);
  for (SIZE_T i = 0; i + n <= length; i++) if (!memcmp(text + i, word, n)) return 1;
  return 0;
}

static Object *blob_of(Object *result, int kind) {
  Object *blob = NULL;
  ((Output)result->table[7])(result, kind, &BYTES, (void **)&blob, NULL);
  return blob;
}

static void dxc(Object *compiler, const char *text, SIZE_T length, const WCHAR **args, UINT count) {
  Buffer source = {text, length, UTF8};
  Object *result = NULL;
  HRESULT status = ((Compile)compiler->table[3])(compiler, &source, args, count, NULL, &RESULT, (void **)&result);
  if (status < 0 || !result) { printf("error compile call %lx\n", (long)status); return; }
  ((Status)result->table[3])(result, &status);
  if (status < 0) {
    Object *errors = blob_of(result, ERRORS);
    if (errors) say_error(pointer(errors), size(errors)); else puts("error without a text");
    release(errors);
  } else {
    Object *object = blob_of(result, OBJECT), *listing = NULL;
    Buffer code = {pointer(object), size(object), 0};
    ((Disassemble)compiler->table[4])(compiler, &code, &RESULT, (void **)&listing);
    Object *lines = listing ? blob_of(listing, DISASSEMBLY) : NULL;
    int dot = lines && contains(pointer(lines), size(lines), "ot4AddI8Packed");
    printf(dot ? "ok dot\n" : "ok\n");
    release(lines); release(listing); release(object);
  }
  release(result);
}

static void fxc(Fxc compile, const char *text, SIZE_T length, const char *entry, const char *profile) {
  Object *code = NULL, *errors = NULL;
  const UINT strict = 1 << 11;
  HRESULT status = compile(text, length, NULL, NULL, NULL, entry, profile, strict, 0, &code, &errors);
  if (status < 0) {
    if (errors) say_error(pointer(errors), size(errors)); else printf("error %lx\n", (long)status);
  } else puts("ok");
  release(code); release(errors);
}

int main(int count, char **args) {
  if (count < 3) { puts("error: DLL PROFILE FLAGS"); return 2; }
  HMODULE library = LoadLibraryA(args[1]);
  if (!library) { printf("error: %s cannot be loaded\n", args[1]); return 1; }
  int is_dxc = strstr(args[1], "dxcompiler") != NULL;
  Object *compiler = NULL;
  Fxc compile = NULL;
  if (is_dxc) {
    Create create = (Create)(void *)GetProcAddress(library, "DxcCreateInstance");
    if (!create || create(&COMPILER_CLASS, &COMPILER, (void **)&compiler) < 0) { puts("error: no compiler"); return 1; }
  } else if (!(compile = (Fxc)(void *)GetProcAddress(library, "D3DCompile"))) { puts("error: no D3DCompile"); return 1; }
  static char line[4096];
  static WCHAR words[32][128];
  const WCHAR *wide[40];
  while (fgets(line, sizeof line, stdin)) {
    char *file = strtok(line, " \r\n"), *entry = strtok(NULL, " \r\n");
    if (!file || !entry) continue;
    FILE *from = fopen(file, "rb");
    if (!from) { printf("error %s cannot be read\n", file); fflush(stdout); continue; }
    fseek(from, 0, SEEK_END);
    long length = ftell(from);
    rewind(from);
    char *text = malloc(length + 1);
    length = (long)fread(text, 1, length, from);
    fclose(from);
    if (is_dxc) {
      UINT n = 0;
      const char *own[] = {"-E", entry, "-T", args[2]};
      for (int i = 0; i < 4; i++, n++) MultiByteToWideChar(CP_UTF8, 0, own[i], -1, words[n], 128);
      for (int i = 3; i < count && n < 32; i++, n++) MultiByteToWideChar(CP_UTF8, 0, args[i], -1, words[n], 128);
      for (UINT i = 0; i < n; i++) wide[i] = words[i];
      dxc(compiler, text, length, wide, n);
    } else fxc(compile, text, length, entry, args[2]);
    free(text);
    fflush(stdout);
  }
  return 0;
}
